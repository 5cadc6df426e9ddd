#include "thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llamaherd {
namespace {

// Some 20 microseconds: longer than a phase is uneven, shorter than waking a thread. On a machine
// that is busy with other things, waiting longer would only take the core from them.
constexpr int kSpins = 1500;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Waits until the value is no longer `old`.
template <typename T>
void wait_for_change(const std::atomic<T>& value, T old) {
    for (int i = 0; i < kSpins; i++) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void pin(pthread_attr_t& attributes, int core) {
#if defined(__linux__)
    cpu_set_t* set = CPU_ALLOC(core + 1);
    const size_t size = CPU_ALLOC_SIZE(core + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(core, size, set);
    pthread_attr_setaffinity_np(&attributes, size, set);
    CPU_FREE(set);
#else
    (void)attributes;
    (void)core;
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads, size_t stack_bytes, const std::vector<int>& cores,
                       bool work_stealing)
    : n_threads_(std::max(1, n_threads)), work_stealing_(work_stealing && n_threads > 1),
      stretches_(new Stretch[n_threads_]) {
    for (int i = 0; i < n_threads_; i++) workers_.push_back({this, i});
    for (int i = 0; i < n_threads_; i++) {
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        if (stack_bytes) {
            pthread_attr_setstacksize(&attributes, std::max<size_t>(stack_bytes, PTHREAD_STACK_MIN));
        }
        if (!cores.empty()) pin(attributes, cores[i % cores.size()]);
        pthread_t handle;
        const int error = pthread_create(&handle, &attributes, start, &workers_[i]);
        pthread_attr_destroy(&attributes);
        if (error) {
            stop();
            throw std::runtime_error("cannot start compute thread " + std::to_string(i) + ": " +
                                     std::strerror(error));
        }
        handles_.push_back(handle);
#if defined(__linux__)
        pthread_setname_np(handle, ("herd-" + std::to_string(i)).c_str());
#endif
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stops_ = true;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (pthread_t handle : handles_) pthread_join(handle, nullptr);
    handles_.clear();
}

void ThreadPool::run(const Job& job) {
    job_ = &job;
    n_working_.store(n_threads_, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (int left = n_working_.load(std::memory_order_acquire); left > 0;
         left = n_working_.load(std::memory_order_acquire)) {
        // The caller takes no core from the threads.
        n_working_.wait(left, std::memory_order_acquire);
    }
}

void ThreadPool::barrier(int) {
    if (n_threads_ == 1) return;
    const unsigned round = barrier_round_.load(std::memory_order_acquire);
    if (n_at_barrier_.fetch_add(1, std::memory_order_acq_rel) == n_threads_ - 1) {
        n_at_barrier_.store(0, std::memory_order_relaxed);
        barrier_round_.store(round + 1, std::memory_order_release);
        barrier_round_.notify_all();
    } else {
        wait_for_change(barrier_round_, round);
    }
}

void* ThreadPool::start(void* worker) {
    auto* self = static_cast<Worker*>(worker);
    self->pool->work(self->index);
    return nullptr;
}

void ThreadPool::work(int thread) {
    for (unsigned seen = 0;;) {
        wait_for_change(round_, seen);
        seen++;
        if (stops_) return;
        (*job_)(thread);
        if (n_working_.fetch_sub(1, std::memory_order_acq_rel) == 1) n_working_.notify_all();
    }
}

}  // namespace llamaherd
