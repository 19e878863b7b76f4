// File: methods.h
//
// The methods of Table that other languages call, for those who bind each of them alike.
#pragma once

#define HKV_METHODS(M)       \
  M(find)                    \
  M(find_pointers)           \
  M(find_rows)               \
  M(find_missed)             \
  M(contains)                \
  M(find_and_update)         \
  M(find_or_insert)          \
  M(find_or_insert_pointers) \
  M(find_or_insert_rows)     \
  M(insert_or_assign)        \
  M(insert_and_evict)        \
  M(accum_or_assign)         \
  M(assign)                  \
  M(assign_values)           \
  M(assign_scores)           \
  M(erase)                   \
  M(erase_where)             \
  M(erase_if)                \
  M(clear)                   \
  M(lock_keys)               \
  M(hold_keys)               \
  M(unlock_keys)             \
  M(unlock_rows)             \
  M(locked)                  \
  M(view_rows)               \
  M(address)                 \
  M(run_write)               \
  M(run_read_segments)       \
  M(run_write_segments)      \
  M(run_export_segments)     \
  M(export_batch)            \
  M(export_batch_if)         \
  M(size)                    \
  M(size_if)                 \
  M(capacity)                \
  M(max_capacity)            \
  M(reserve)                 \
  M(set_max_capacity)        \
  M(set_global_epoch)        \
  M(set_clock)               \
  M(save)                    \
  M(load)                    \
  M(synchronize)             \
  M(dim)                     \
  M(device)                  \
  M(key_type)                \
  M(value_type)              \
  M(evict_strategy)          \
  M(engine)
