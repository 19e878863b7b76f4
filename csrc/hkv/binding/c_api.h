// File: c_api.h
//
// The tables for every language that can call C: libhkv.so exports these two functions.
//
// All calls have one form, so that a caller packs 64-bit words and needs no prototype:
//
//   int32_t call(uint64_t* words);
//
// The words are the arguments in the order of table.h, the table first: sizes, addresses (0: none;
// of arrays, of a Predicate, of an HkvText, a stream) and 0 or 1. Where a call returns
// something, it is written to words[0]. The call itself returns what HkvStatus says; nothing is
// thrown, and what went wrong is in hkv_error().
//
//   uint64_t words[] = {table, n, (uint64_t)keys, (uint64_t)values, (uint64_t)founds, 0, 0};
//   if (find(words) != kHkvOk) puts(hkv_error());
//
// Beside the methods of a table there are, all of them in hkv_calls():
//   create            on_device, key_dtype, value_dtype, evict_strategy (names), a HashTableOptions
//                     (types.h), its size in bytes, num_threads -> the table
//   default_options   a HashTableOptions to fill, its size in bytes
//   destroy           the table
//   device_count      0 -> the GPUs that can be used
//   synchronize_stream  the stream
//   event_create      device, stream -> an event: what stands before it on the stream
//   event_done        the event -> 1 when that is done
//   event_destroy     the event
//   memory_create     bytes, device, stream -> zeroed device memory, in the order of the stream
//   memory_address    the memory -> its address
//   memory_to_host, memory_from_host  the memory, an address, the stream; all of its bytes
//   memory_destroy    the memory
//   memory_to_dlpack  the memory, the shape's address, its length, DLPack's type code, bits -> a
//                     DLManagedTensor that keeps the memory
//   dlpack_name       0 -> the address of the name of such a tensor's capsule
//   dlpack_destructor  the addresses of PyCapsule_IsValid and PyCapsule_GetPointer -> the address
//   of
//                     the destructor of such a tensor's capsule
#pragma once

#include <stdint.h>

#define HKV_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum HkvStatus { kHkvOk = 0, kHkvBadArgument = 1, kHkvFailed = 2, kHkvNoMemory = 3 };

typedef struct {
  const char* name;
  int32_t words;    // how many the call reads
  int32_t returns;  // 0: nothing, 1: a number, 2: the address of a text that stays
  int32_t method;   // 1: of a table
  int32_t (*call)(uint64_t* words);
} HkvCall;

typedef struct {
  const char* data;  // of a path or a name; it need not end with a NUL
  uint64_t bytes;
} HkvText;

// `count` of them, for ever.
HKV_API const HkvCall* hkv_calls(int32_t* count);

// What the last failed call of this thread says, naming the argument, its value and what is
// allowed.
HKV_API const char* hkv_error(void);

#ifdef __cplusplus
}
#endif
