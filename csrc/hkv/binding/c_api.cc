// File: c_api.cc
//
// Every call of c_api.h is made from the C++ function that it stands for: its parameters' types say
// what the words are.
#include "csrc/hkv/binding/c_api.h"

#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "csrc/hkv/binding/device_memory.h"
#include "csrc/hkv/binding/methods.h"
#include "csrc/hkv/table.h"

ACCEL_PACKAGE("hkv");

namespace hkv {
namespace {

thread_local std::string last_error;

// -- words

template <class T>
decltype(auto) FromWord(uint64_t word) {
  using Value = std::remove_cv_t<std::remove_reference_t<T>>;
  if constexpr (std::is_same_v<Value, std::string>) {
    const auto* text = reinterpret_cast<const HkvText*>(word);
    return std::string(text->data, text->bytes);
  } else if constexpr (std::is_reference_v<T>) {
    return *reinterpret_cast<Value*>(word);
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(word);
  } else {
    return static_cast<T>(word);
  }
}

template <class T>
constexpr int32_t kReturns = std::is_void_v<T>                                     ? 0
                             : std::is_same_v<T, const char*> || std::is_enum_v<T> ? 2
                                                                                   : 1;

template <class T>
uint64_t ToWord(T value) {
  if constexpr (std::is_enum_v<T>) {
    return reinterpret_cast<uint64_t>(Name(value));
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<uint64_t>(value);
  } else {
    return static_cast<uint64_t>(value);
  }
}

// -- a function or a method of Table as a call

template <class R, class... Args>
struct Signature {
  using Result = R;
  static constexpr int32_t kWords = sizeof...(Args);

  template <class F>
  static R Apply(F f, const uint64_t* words) {
    return Apply(f, words, std::make_index_sequence<sizeof...(Args)>());
  }
  template <class F, size_t... i>
  static R Apply(F f, const uint64_t* words, std::index_sequence<i...>) {
    return f(FromWord<Args>(words[i])...);
  }
};

template <class R, class... Args>
Signature<R, Args...> SignatureOf(R (*)(Args...));
template <class R, class... Args>
Signature<R, Table*, Args...> SignatureOf(R (Table::*)(Args...));
template <class R, class... Args>
Signature<R, Table*, Args...> SignatureOf(R (Table::*)(Args...) const);

template <auto kFunction>
int32_t Call(uint64_t* words) {
  using S = decltype(SignatureOf(kFunction));
  const auto apply = [words] {
    return S::Apply([](auto&&... args) { return std::invoke(kFunction, args...); }, words);
  };
  try {
    if constexpr (std::is_void_v<typename S::Result>) {
      apply();
    } else {
      words[0] = ToWord(apply());
    }
    return kHkvOk;
  } catch (const std::invalid_argument& error) {
    last_error = error.what();
    return kHkvBadArgument;
  } catch (const std::bad_alloc&) {
    last_error = accel::ErrorText("out of host memory");
    return kHkvNoMemory;
  } catch (const std::exception& error) {
    last_error = error.what();
    return kHkvFailed;
  } catch (...) {
    last_error = accel::ErrorText("an unknown exception");
    return kHkvFailed;
  }
}

template <auto kFunction>
constexpr HkvCall CallOf(const char* name) {
  using S = decltype(SignatureOf(kFunction));
  const bool method = std::is_member_function_pointer_v<decltype(kFunction)>;
  return {name, S::kWords, kReturns<typename S::Result>, method, &Call<kFunction>};
}

// -- the calls that are no methods of a table

template <class Enum>
Enum ByName(const std::string& name, int count, const char* argument) {
  std::string allowed;
  for (int i = 0; i < count; ++i) {
    if (name == Name(static_cast<Enum>(i))) return static_cast<Enum>(i);
    allowed += (i == 0 ? "" : ", ") + std::string(Name(static_cast<Enum>(i)));
  }
  accel::FailArgument(argument, " is '", name, "'; it must be one of ", allowed);
}

void CheckSize(uint64_t bytes) {
  accel::CheckArgument(bytes == sizeof(HashTableOptions), "options have ", bytes, " bytes, not ",
                       sizeof(HashTableOptions));
}

void DefaultOptions(HashTableOptions* options, uint64_t bytes) {
  CheckSize(bytes);
  *options = HashTableOptions();
}

Table* Create(bool on_device, const std::string& key, const std::string& value,
              const std::string& strategy, const HashTableOptions& options, uint64_t bytes,
              int num_threads) {
  CheckSize(bytes);
  const auto key_type = ByName<KeyType>(key, 2, "key_dtype");
  const auto value_type = ByName<ValueType>(value, kValueTypesOfLibrary, "value_dtype");
  const auto evict = ByName<EvictStrategy>(strategy, 5, "evict_strategy");
  auto table = on_device ? CreateDeviceTable(options, key_type, value_type, evict)
                         : CreateHostTable(options, key_type, value_type, evict, num_threads);
  return table.release();
}

void Destroy(Table* table) { delete table; }

int DeviceCountOf(uint64_t) { return DeviceCount(); }

void SynchronizeStream(cudaStream_t stream) {
  CheckCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

Event* EventCreate(int device, Address stream) { return new Event(device, stream); }
bool EventDone(Event* event) { return event->Done(); }
void EventDestroy(Event* event) { delete event; }

using Memory = std::shared_ptr<DeviceMemory>;

Memory* MemoryCreate(size_t bytes, int device, Address stream) {
  return new Memory(std::make_shared<DeviceMemory>(bytes, device, stream));
}
void* MemoryAddress(Memory* memory) { return (*memory)->data(); }
void MemoryToHost(Memory* memory, Address to, Address stream) { (*memory)->ToHost(to, stream); }
void MemoryFromHost(Memory* memory, Address from, Address stream) {
  (*memory)->FromHost(from, stream);
}
void MemoryDestroy(Memory* memory) { delete memory; }
accel::DLManagedTensor* MemoryToDLPack(Memory* memory, const int64_t* shape, size_t dims, int code,
                                       int bits) {
  return ExportMemory(*memory, {shape, shape + dims}, code, bits);
}

// Python's own functions, handed in: nothing here is linked against Python.
int (*capsule_is_valid)(void* capsule, const char* name) = nullptr;
void* (*capsule_pointer)(void* capsule, const char* name) = nullptr;

void DropCapsule(void* capsule) {
  const char* name = accel::DLManagedTensor::kCapsule;
  if (capsule_is_valid(capsule, name) == 0) return;  // taken over by a consumer
  auto* tensor = static_cast<accel::DLManagedTensor*>(capsule_pointer(capsule, name));
  tensor->deleter(tensor);
}

const void* DLPackName(uint64_t) { return accel::DLManagedTensor::kCapsule; }

void* DLPackDestructor(uint64_t is_valid, uint64_t pointer) {
  capsule_is_valid = reinterpret_cast<decltype(capsule_is_valid)>(is_valid);
  capsule_pointer = reinterpret_cast<decltype(capsule_pointer)>(pointer);
  return reinterpret_cast<void*>(&DropCapsule);
}

#define HKV_CALL(name) CallOf<&Table::name>(#name),
constexpr HkvCall kCalls[] = {
    HKV_METHODS(HKV_CALL)  //
    CallOf<&Create>("create"),
    CallOf<&DefaultOptions>("default_options"),
    CallOf<&Destroy>("destroy"),
    CallOf<&DeviceCountOf>("device_count"),
    CallOf<&SynchronizeStream>("synchronize_stream"),
    CallOf<&EventCreate>("event_create"),
    CallOf<&EventDone>("event_done"),
    CallOf<&EventDestroy>("event_destroy"),
    CallOf<&MemoryCreate>("memory_create"),
    CallOf<&MemoryAddress>("memory_address"),
    CallOf<&MemoryToHost>("memory_to_host"),
    CallOf<&MemoryFromHost>("memory_from_host"),
    CallOf<&MemoryDestroy>("memory_destroy"),
    CallOf<&MemoryToDLPack>("memory_to_dlpack"),
    CallOf<&DLPackName>("dlpack_name"),
    CallOf<&DLPackDestructor>("dlpack_destructor"),
};
#undef HKV_CALL

}  // namespace
}  // namespace hkv

const HkvCall* hkv_calls(int32_t* count) {
  *count = static_cast<int32_t>(std::size(hkv::kCalls));
  return hkv::kCalls;
}

const char* hkv_error() { return hkv::last_error.c_str(); }
