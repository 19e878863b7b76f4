// File: stream_order.h
//
// The order of calls that come on several CUDA streams. Host code only.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "csrc/common/cuda_memory.h"

namespace accel {

// A reader-writer lock among streams, kept on the device by events: a writing call waits for the
// calls before it on other streams, a reading call for the last writing one. The host never waits.
// Calls that are being captured into a graph are neither waited for nor wait.
class StreamOrder {
 public:
  explicit StreamOrder(bool enabled) : enabled_(enabled) {}
  ~StreamOrder() {
    for (Entry& entry : readers_) cudaEventDestroy(entry.event);
    if (writer_.event != nullptr) cudaEventDestroy(writer_.event);
  }
  StreamOrder(const StreamOrder&) = delete;
  StreamOrder& operator=(const StreamOrder&) = delete;

  // Whether calls on this stream are ordered now.
  bool Applies(cudaStream_t stream) const {
    if (!enabled_) return false;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CheckCuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return status == cudaStreamCaptureStatusNone;
  }

  void Before(cudaStream_t stream, bool writes) {
    if (!Applies(stream)) return;
    Wait(stream, writer_);
    if (!writes) return;
    for (Entry& entry : readers_) Wait(stream, entry);
  }

  void After(cudaStream_t stream, bool writes) {
    if (!Applies(stream)) return;
    if (writes) {
      Record(stream, &writer_);
      for (Entry& entry : readers_) entry.active = false;
      return;
    }
    Entry* mine = nullptr;
    for (Entry& entry : readers_) {
      if (!entry.active || entry.stream == stream) mine = &entry;
      if (entry.active && entry.stream == stream) break;
    }
    if (mine == nullptr) {
      readers_.emplace_back();
      mine = &readers_.back();
    }
    Record(stream, mine);
  }

 private:
  struct Entry {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    bool active = false;
  };

  static void Wait(cudaStream_t stream, const Entry& entry) {
    if (!entry.active || entry.stream == stream) return;
    CheckCuda(cudaStreamWaitEvent(stream, entry.event, 0), "cudaStreamWaitEvent");
  }

  static void Record(cudaStream_t stream, Entry* entry) {
    if (entry->event == nullptr) {
      CheckCuda(cudaEventCreateWithFlags(&entry->event, cudaEventDisableTiming), "cudaEventCreate");
    }
    CheckCuda(cudaEventRecord(entry->event, stream), "cudaEventRecord");
    entry->stream = stream;
    entry->active = true;
  }

  bool enabled_;
  Entry writer_;
  std::vector<Entry> readers_;
};

}  // namespace accel
