// Compute threads of one engine.
//
// The caller sleeps while they work. Between the phases of a step they wait at a barrier, and
// between steps for a job: a moment of spinning, then the system's own waiting, so that an idle
// pool costs nothing.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace llamaherd {

class ThreadPool {
  public:
    using Job = std::function<void(int thread)>;

    // `cores` pins thread i to cores[i % size]; empty leaves the threads where the system puts
    // them. Throws std::runtime_error if a thread cannot be started.
    ThreadPool(int n_threads, size_t stack_bytes, const std::vector<int>& cores,
               bool work_stealing);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return n_threads_; }

    // Runs the job once on every thread.
    void run(const Job& job);

    // Within a job: returns when all threads have come here.
    void barrier(int thread);

    // Within a job, by every thread: does tasks 0 .. n_tasks-1, each once, and waits for all.
    // A thread begins with a stretch of its own; with work stealing it then helps the others.
    template <typename Task>
    void share(int thread, int n_tasks, Task&& task) {
        const uint32_t round = ++stretches_[thread].round;
        const int n_stretches = work_stealing_ ? n_threads_ : 1;
        for (int i = 0; i < n_stretches; i++) {
            const int owner = (thread + i) % n_threads_;
            const int begin = stretch_begin(owner, n_tasks), end = stretch_begin(owner + 1, n_tasks);
            for (int index; (index = take(stretches_[owner], round, begin)) < end;) task(index);
        }
        barrier(thread);
    }

  private:
    struct alignas(128) Stretch {
        std::atomic<uint64_t> next{0};  // the round in the upper half, the next task in the lower
        uint32_t round = 0;             // of the owner
    };
    struct Worker {
        ThreadPool* pool;
        int index;
    };

    static void* start(void* worker);
    void work(int thread);
    void stop();
    int stretch_begin(int thread, int n_tasks) const {
        return int(static_cast<long long>(n_tasks) * thread / n_threads_);
    }

    // The next task of a stretch. Whoever comes first in a round sets it up, owner or not.
    static int take(Stretch& stretch, uint32_t round, int begin) {
        uint64_t next = stretch.next.load(std::memory_order_relaxed);
        const uint64_t fresh = uint64_t(round) << 32 | uint32_t(begin);
        if (uint32_t(next >> 32) != round &&
            stretch.next.compare_exchange_strong(next, fresh + 1, std::memory_order_relaxed)) {
            return begin;
        }
        return int(uint32_t(stretch.next.fetch_add(1, std::memory_order_relaxed)));
    }

    const int n_threads_;
    const bool work_stealing_;
    const Job* job_ = nullptr;
    bool stops_ = false;
    std::unique_ptr<Stretch[]> stretches_;
    std::vector<Worker> workers_;
    std::vector<pthread_t> handles_;
    alignas(128) std::atomic<unsigned> round_{0};
    alignas(128) std::atomic<int> n_working_{0};
    alignas(128) std::atomic<int> n_at_barrier_{0};
    alignas(128) std::atomic<unsigned> barrier_round_{0};
};

}  // namespace llamaherd
