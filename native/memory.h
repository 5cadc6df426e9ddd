// Zeroed memory in whole pages, large ones where the system has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <sys/mman.h>

namespace llamaherd {

class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t n_bytes) : n_bytes_(n_bytes) {
        if (n_bytes == 0) return;
        // Pages come zeroed and only when touched. Kernels prefetch a little beyond the end.
        void* at = mmap(nullptr, reserved(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (n_bytes >= kHugePage) madvise(at, reserved(), MADV_HUGEPAGE);
#endif
        data_ = static_cast<uint8_t*>(at);
    }
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(n_bytes_, other.n_bytes_);
        return *this;
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (data_) munmap(data_, reserved());
    }

    uint8_t* bytes() const { return data_; }
    float* floats() const { return reinterpret_cast<float*>(data_); }
    size_t size() const { return n_bytes_; }

  private:
    static constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
    size_t reserved() const { return (n_bytes_ + kPage - 1) / kPage * kPage; }

    uint8_t* data_ = nullptr;
    size_t n_bytes_ = 0;
};

}  // namespace llamaherd
