// File: host_block.h
//
// Runs a kernel on the host as a GPU would, one block after the other, to test it where there is no
// GPU. Each thread of a block is a fiber that runs until it has to wait for others. A barrier, or a
// shuffle, that not all threads reach is an error, as is whatever a sanitizer finds.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ACCEL_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ACCEL_ASAN
#endif
#ifdef ACCEL_ASAN  // of its runtime: which stack the code now runs on
extern "C" void __sanitizer_start_switch_fiber(void** kept, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* kept, const void** bottom, size_t* size);
#endif

// The variables of ACCEL_SHARED. g++ cannot put those of templates and others into one section.
#ifdef __clang__
#define ACCEL_HOST_SHARED __attribute__((section("accel_shared")))
extern "C" __attribute__((weak, visibility("hidden"))) char __start_accel_shared[];
extern "C" __attribute__((weak, visibility("hidden"))) char __stop_accel_shared[];
#else
#define ACCEL_HOST_SHARED
#endif

namespace accel {

// The machine that a kernel is run as.
struct HostMachine {
  int wave;  // lanes of the hardware: 32, or 64
  bool last_first =
      false;  // threads run in falling order: what needs a barrier cannot rely on rising order
};

class HostBlock {
 public:
  static constexpr int kGroup = 32;  // lanes that shuffle together
  static constexpr size_t kStack = 256 << 10;

  HostBlock(int threads, const HostMachine& machine)
      : machine_(machine), fibers_(threads), groups_((threads + kGroup - 1) / kGroup) {
    barrier_.members = threads;
    for (int t = 0; t < threads; ++t) ++groups_[t / kGroup].members;
    for (std::vector<uint64_t>& slots : slots_) slots.resize(threads);
    for (Fiber& fiber : fibers_) fiber.stack.reset(new char[kStack]);
  }

  // The block whose thread is running.
  static HostBlock& Current() { return *CurrentPointer(); }

  // `kernel` as each thread of each block.
  void Run(int64_t blocks, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    CurrentPointer() = this;
    for (block_ = 0; block_ < blocks; ++block_) RunBlock();
    CurrentPointer() = nullptr;
  }

  int thread() const { return thread_; }
  int64_t block() const { return block_; }
  int wave_lane() const { return thread_ % machine_.wave; }
  void Barrier() { Meet(barrier_); }

  // What the thread in that lane of the same wave hands in, once the whole group has; of another
  // group, whatever was there.
  uint64_t Exchange(uint64_t value, int lane) {
    Fiber& self = fibers_[thread_];
    std::vector<uint64_t>& slots = slots_[self.odd];
    self.odd = !self.odd;  // no thread is two exchanges ahead of its group
    slots[thread_] = value;
    const int source = thread_ / machine_.wave * machine_.wave + lane % machine_.wave;
    Meet(groups_[thread_ / kGroup]);
    return source < static_cast<int>(slots.size()) ? slots[source] : 0;
  }

 private:
  struct Meeting {
    int members = 0, arrived = 0;
    uint64_t times = 0;  // that all have met
  };

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Meeting* waits = nullptr;
    uint64_t since = 0;
    bool done = false, odd = false;
    void* fake_stack = nullptr;
  };

  static HostBlock*& CurrentPointer() {
    static thread_local HostBlock* current = nullptr;
    return current;
  }

  void Meet(Meeting& meeting) {
    if (++meeting.arrived == meeting.members) {
      meeting.arrived = 0;
      ++meeting.times;
      return;
    }
    Fiber& self = fibers_[thread_];
    self.waits = &meeting;
    self.since = meeting.times;
    Leave(self);
  }

  void RunBlock() {
    const int threads = static_cast<int>(fibers_.size());
#ifdef __clang__
    // No kernel finds zeros, or what the block before it left.
    if (__start_accel_shared != nullptr) {
      std::memset(__start_accel_shared, 0xff, __stop_accel_shared - __start_accel_shared);
    }
#endif
    for (Meeting& group : groups_) group.arrived = 0;
    barrier_.arrived = 0;
    for (Fiber& fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      fiber.waits = nullptr;
      fiber.done = false;
      makecontext(&fiber.context, &HostBlock::Start, 0);
    }
    for (int left = threads; left > 0;) {
      bool moved = false;
      for (int i = 0; i < threads; ++i) {
        thread_ = machine_.last_first ? threads - 1 - i : i;
        Fiber& fiber = fibers_[thread_];
        if (fiber.done || (fiber.waits != nullptr && fiber.waits->times == fiber.since)) continue;
        fiber.waits = nullptr;
        moved = true;
        Enter(fiber);
        left -= fiber.done;
      }
      if (!moved) {
        throw std::logic_error("a barrier or a shuffle waits for threads that do not come to it");
      }
    }
  }

  static void Start() {
    HostBlock& self = Current();
#ifdef ACCEL_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &self.outer_stack_, &self.outer_size_);
#endif
    (*self.kernel_)();
    Fiber& fiber = self.fibers_[self.thread_];
    fiber.done = true;
    self.Leave(fiber);
  }

  // From the scheduler to a thread, and back.
  void Enter(Fiber& fiber) {
#ifdef ACCEL_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, fiber.stack.get(), kStack);
#endif
    swapcontext(&outer_, &fiber.context);
#ifdef ACCEL_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  void Leave(Fiber& fiber) {
#ifdef ACCEL_ASAN
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, outer_stack_,
                                   outer_size_);
#endif
    swapcontext(&fiber.context, &outer_);
#ifdef ACCEL_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  }

  HostMachine machine_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> groups_;
  Meeting barrier_;
  std::vector<uint64_t> slots_[2];
  const std::function<void()>* kernel_ = nullptr;
  int64_t block_ = 0;
  int thread_ = 0;
  ucontext_t outer_{};
  [[maybe_unused]] void* fake_stack_ = nullptr;  // as the next two: AddressSanitizer's
  [[maybe_unused]] const void* outer_stack_ = nullptr;
  [[maybe_unused]] size_t outer_size_ = 0;
};

// A kernel's launch. Throws std::logic_error where the kernel would hang, or worse, on a GPU.
template <class Arguments>
void RunOnHost(void (*kernel)(Arguments), const Arguments& arguments, int64_t blocks, int threads,
               const HostMachine& machine) {
  HostBlock(threads, machine).Run(blocks, [&] { kernel(arguments); });
}

}  // namespace accel
