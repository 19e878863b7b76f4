// File: host_table.cc
//
// The table in host memory: same layout, same choice of slots and same score rules as the GPU
// table, so the two agree wherever the order of the keys is the same. It is the engine of tests,
// small jobs and machines without a GPU.
//
// A batch is shared among threads by home bucket: all keys of a home bucket are done by one thread
// in their order in the batch, so of equal keys the last one wins. A thread locks the two buckets
// of a key while it works on it. Scores of the clock strategies are nanoseconds of the steady clock
// at the call, plus the index in the batch: later keys are always younger.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "csrc/common/half.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/score.h"
#include "csrc/hkv/table.h"
#include "csrc/hkv/table_file.h"

namespace hkv {
namespace {

constexpr uint64_t kNoPosition = UINT64_MAX;
constexpr size_t kKeysPerThread = 8192;  // smaller batches are not worth a thread

// One set of arrays; reserve() makes another.
struct Storage {
  Storage(uint64_t capacity, size_t row_bytes)
      : layout(Layout::Of(capacity)), row_bytes(row_bytes) {
    const uint64_t slots = static_cast<uint64_t>(layout.num_buckets) * kBucketSlots;
    digests.reset(new uint8_t[slots]);
    keys.reset(new uint64_t[slots]);
    scores.reset(new uint64_t[slots]);
    rows.reset(new char[capacity * row_bytes]);
    pinned.resize(slots);
    locks.reset(new std::atomic<bool>[layout.num_buckets]);
    for (uint32_t b = 0; b < layout.num_buckets; ++b) locks[b].store(false);
    Clear();
  }

  void Clear() {
    for (uint32_t b = 0; b < layout.num_buckets; ++b) {
      uint8_t* line = &digests[static_cast<uint64_t>(b) * kBucketSlots];
      std::memset(line, kDisabled, kBucketSlots);
      std::memset(line, kEmpty, layout.SlotsOf(b));
    }
    std::fill(pinned.begin(), pinned.end(), 0);
    size = 0;
  }

  char* Row(uint64_t position) const {
    return &rows[layout.Row(static_cast<uint32_t>(position / kBucketSlots),
                            static_cast<uint32_t>(position % kBucketSlots)) *
                 row_bytes];
  }

  // The key's position in one bucket, and the bucket's room.
  uint64_t Probe(uint32_t bucket, uint32_t tag, uint64_t key, uint32_t* num_free,
                 uint64_t* free_position) const {
    const uint64_t base = static_cast<uint64_t>(bucket) * kBucketSlots;
    const uint32_t slots = layout.SlotsOf(bucket);
    *num_free = 0;
    for (uint32_t s = 0; s < slots; ++s) {
      const uint8_t digest = digests[base + s];
      if (digest == tag && keys[base + s] == key) return base + s;
      if (digest <= kReclaimed && (*num_free)++ == 0) *free_position = base + s;
    }
    return kNoPosition;
  }

  bool Spills(uint32_t home) const {
    return layout.num_buckets > 1 &&
           digests[static_cast<uint64_t>(home) * kBucketSlots + layout.spill_slot] != kEmpty;
  }

  uint64_t Find(uint64_t key, uint64_t* free_position) const {
    const Place place = layout.PlaceOf(key);
    uint32_t home_free = 0, other_free = 0;
    uint64_t other_position = kNoPosition;
    *free_position = kNoPosition;
    uint64_t found = Probe(place.home, place.tag, key, &home_free, free_position);
    if (found == kNoPosition && Spills(place.home)) {
      found = Probe(place.other, place.tag, key, &other_free, &other_position);
      if (other_free > home_free) *free_position = other_position;
    }
    return found;
  }

  Layout layout;
  size_t row_bytes;
  std::unique_ptr<uint8_t[]> digests;
  std::unique_ptr<uint64_t[]> keys, scores;
  std::unique_ptr<char[]> rows;
  std::vector<uint8_t> pinned;
  std::unique_ptr<std::atomic<bool>[]> locks;
  std::atomic<uint64_t> size{0};
};

// Holds the two buckets of a key.
class PlaceLock {
 public:
  PlaceLock(Storage* storage, const Place& place)
      : first_(&storage->locks[std::min(place.home, place.other)]),
        second_(&storage->locks[std::max(place.home, place.other)]) {
    Take(first_);
    if (second_ != first_) Take(second_);
  }
  ~PlaceLock() {
    first_->store(false, std::memory_order_release);
    if (second_ != first_) second_->store(false, std::memory_order_release);
  }

 private:
  static void Take(std::atomic<bool>* lock) {
    while (lock->exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  std::atomic<bool>*first_, *second_;
};

class HostTable final : public Table {
 public:
  HostTable(const HashTableOptions& options, KeyType key, ValueType value, EvictStrategy strategy,
            int num_threads)
      : options_(CheckedOptions(options)),
        key_type_(key),
        value_type_(value),
        strategy_(strategy),
        row_bytes_(options.dim * SizeOf(value)) {
    if (num_threads < 0) {
      FailArgument("num_threads is " + std::to_string(num_threads) + "; it must not be negative");
    }
    num_threads_ = num_threads > 0
                       ? num_threads
                       : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    storage_ = Allocate(options_.init_capacity);
  }

  void find(size_t n, const uint64_t* keys, void* values, bool* founds, uint64_t* scores,
            Stream) override {
    Read("find", n, keys, values, nullptr, founds, scores);
  }
  void find_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds, uint64_t* scores,
                     Stream) override {
    CheckArray("find_pointers", "rows", n, rows);
    Read("find_pointers", n, keys, nullptr, rows, founds, scores);
  }
  void contains(size_t n, const uint64_t* keys, bool* founds, Stream) override {
    CheckArray("contains", "founds", n, founds);
    Read("contains", n, keys, nullptr, nullptr, founds, nullptr);
  }
  void find_missed(size_t n, const uint64_t* keys, void* values, uint64_t* missed_keys,
                   int32_t* missed_indices, uint64_t* missed_size, uint64_t* scores,
                   Stream) override {
    CheckArray("find_missed", "missed_keys", n, missed_keys);
    CheckArray("find_missed", "missed_indices", n, missed_indices);
    CheckArray("find_missed", "missed_size", 1, missed_size);
    std::unique_ptr<bool[]> founds(new bool[n]);
    Read("find_missed", n, keys, values, nullptr, founds.get(), scores);
    *missed_size = 0;
    for (size_t i = 0; i < n; ++i) {
      if (founds[i]) continue;
      missed_keys[*missed_size] = keys[i];
      missed_indices[(*missed_size)++] = static_cast<int32_t>(i);
    }
  }

  void find_and_update(size_t n, const uint64_t* keys, void* values, bool* founds,
                       const uint64_t* scores, uint8_t* status, Stream) override {
    Call call{"find_and_update", n, keys, scores, status};
    call.reads = true;
    call.out = values;
    call.founds = founds;
    Write(call);
  }
  void find_or_insert(size_t n, const uint64_t* keys, void* values, bool* founds,
                      const uint64_t* scores, uint8_t* status, Stream) override {
    CheckArray("find_or_insert", "values", n, values);
    Call call{"find_or_insert", n, keys, scores, status};
    call.inserts = call.reads = true;
    call.in = call.out = values;
    call.founds = founds;
    Write(call);
  }
  void find_or_insert_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                               const uint64_t* scores, bool lock, uint8_t* status,
                               Stream) override {
    CheckArray("find_or_insert_pointers", "rows", n, rows);
    Call call{"find_or_insert_pointers", n, keys, scores, status};
    call.inserts = call.reads = true;
    call.rows = rows;
    call.founds = founds;
    call.pin = lock;
    Write(call);
  }
  void insert_or_assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        bool ignore_evict_strategy, uint8_t* status, Stream) override {
    CheckArray("insert_or_assign", "values", n, values);
    Call call{"insert_or_assign", n, keys, scores, status};
    call.inserts = true;
    call.in = values;
    call.verbatim = ignore_evict_strategy;
    Write(call);
  }
  void insert_and_evict(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        uint64_t* evicted_keys, void* evicted_values, uint64_t* evicted_scores,
                        uint64_t* evicted_count, bool ignore_evict_strategy, uint8_t* status,
                        Stream) override {
    CheckArray("insert_and_evict", "values", n, values);
    CheckArray("insert_and_evict", "evicted_keys", n, evicted_keys);
    CheckArray("insert_and_evict", "evicted_values", n, evicted_values);
    CheckArray("insert_and_evict", "evicted_count", 1, evicted_count);
    Call call{"insert_and_evict", n, keys, scores, status};
    call.inserts = true;
    call.in = values;
    call.verbatim = ignore_evict_strategy;
    call.evicted_keys = evicted_keys;
    call.evicted_values = static_cast<char*>(evicted_values);
    call.evicted_scores = evicted_scores;
    Write(call);
    *evicted_count = call.evicted.load();
  }
  void accum_or_assign(size_t n, const uint64_t* keys, const void* values_or_deltas,
                       const bool* accums, const uint64_t* scores, uint8_t* status,
                       Stream) override {
    CheckArray("accum_or_assign", "values_or_deltas", n, values_or_deltas);
    CheckArray("accum_or_assign", "accums", n, accums);
    Call call{"accum_or_assign", n, keys, scores, status};
    call.inserts = true;
    call.in = values_or_deltas;
    call.accums = accums;
    Write(call);
  }
  void assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
              uint8_t* status, Stream) override {
    CheckArray("assign", "values", n, values);
    Call call{"assign", n, keys, scores, status};
    call.in = values;
    Write(call);
  }
  void assign_values(size_t n, const uint64_t* keys, const void* values, uint8_t* status,
                     Stream) override {
    CheckArray("assign_values", "values", n, values);
    Call call{"assign_values", n, keys, nullptr, status};
    call.in = values;
    call.touch_scores = false;
    Write(call);
  }
  void assign_scores(size_t n, const uint64_t* keys, const uint64_t* scores, uint8_t* status,
                     Stream) override {
    Call call{"assign_scores", n, keys, scores, status};
    Write(call);
  }

  void erase(size_t n, const uint64_t* keys, uint8_t* status, Stream) override {
    CheckArray("erase", "keys", n, keys);
    std::unique_lock<std::shared_mutex> guard(mutex_);
    for (size_t i = 0; i < n; ++i) {
      uint64_t room;
      const uint64_t position = storage_->Find(keys[i], &room);
      uint8_t done = kSkipped;
      if (position != kNoPosition) {
        done = storage_->pinned[position] ? kLocked : kUpdated;
        if (done == kUpdated) {
          storage_->digests[position] = kReclaimed;
          --storage_->size;
        }
      }
      if (status != nullptr) status[i] = done;
    }
  }
  uint64_t erase_if(const Predicate& predicate, Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    uint64_t erased = 0;
    Scan(predicate, 0, storage_->layout.capacity, [&](uint64_t position) {
      if (storage_->pinned[position]) return;
      storage_->digests[position] = kReclaimed;
      --storage_->size;
      ++erased;
    });
    return erased;
  }
  void clear(Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    storage_->Clear();
  }

  void lock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream) override {
    Pin("lock_keys", n, keys, 1, succeeded);
  }
  void unlock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream) override {
    Pin("unlock_keys", n, keys, 0, succeeded);
  }

  void export_batch(size_t n, size_t offset, uint64_t* count, uint64_t* keys, void* values,
                    uint64_t* scores, Stream stream) override {
    export_batch_if(Predicate(), n, offset, count, keys, values, scores, stream);
  }
  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       uint64_t* keys, void* values, uint64_t* scores, Stream) override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    CheckRange("export_batch", n, offset, storage_->layout.capacity);
    CheckArray("export_batch", "count", 1, count);
    *count = 0;
    Scan(predicate, offset, offset + n, [&](uint64_t position) {
      const uint64_t at = (*count)++;
      if (keys != nullptr) keys[at] = storage_->keys[position];
      if (scores != nullptr) scores[at] = storage_->scores[position];
      if (values != nullptr) {
        std::memcpy(static_cast<char*>(values) + at * row_bytes_, storage_->Row(position),
                    row_bytes_);
      }
    });
  }

  uint64_t size(Stream) const override { return storage_->size.load(); }
  uint64_t size_if(const Predicate& predicate, Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    uint64_t matching = 0;
    Scan(predicate, 0, storage_->layout.capacity, [&](uint64_t) { ++matching; });
    return matching;
  }
  uint64_t capacity() const override { return storage_->layout.capacity; }
  uint64_t max_capacity() const override { return options_.max_capacity; }
  void reserve(uint64_t capacity, Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    if (capacity > options_.max_capacity) {
      FailArgument("reserve: capacity is " + std::to_string(capacity) +
                   "; it must not exceed max_capacity, " + std::to_string(options_.max_capacity));
    }
    if (capacity > storage_->layout.capacity) Grow(capacity);
  }
  void set_global_epoch(uint64_t epoch) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    epoch_ = epoch;
  }

  uint64_t save(const std::string& path, Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    TableFileWriter writer(path, key_type_, value_type_, strategy_, options_.dim);
    Scan(Predicate(), 0, storage_->layout.capacity, [&](uint64_t position) {
      writer.Append(1, &storage_->keys[position], &storage_->scores[position],
                    storage_->Row(position));
    });
    return writer.Commit();
  }
  uint64_t load(const std::string& path, Stream) override {
    TableFileReader reader(path, key_type_, value_type_, strategy_, options_.dim);
    if (reader.rows() > options_.max_capacity) {
      FailArgument("load: '" + path + "' holds " + std::to_string(reader.rows()) +
                   " rows, max_capacity is " + std::to_string(options_.max_capacity));
    }
    std::vector<uint64_t> keys, scores;
    std::vector<char> values;
    std::vector<uint8_t> status;
    uint64_t stored = 0;
    while (const size_t n = reader.Next(&keys, &scores, &values)) {
      status.resize(n);
      insert_or_assign(n, keys.data(), values.data(), scores.data(), true, status.data(), nullptr);
      for (uint8_t s : status) stored += s >= kUpdated && s <= kEvicted;
    }
    return stored;
  }
  void synchronize(Stream) const override {}

  uint32_t dim() const override { return options_.dim; }
  int32_t device() const override { return -1; }
  KeyType key_type() const override { return key_type_; }
  ValueType value_type() const override { return value_type_; }
  EvictStrategy evict_strategy() const override { return strategy_; }
  const char* engine() const override { return "host"; }

 private:
  // One writing call; the flags say what it does with present and absent keys.
  struct Call {
    Call(const char* name, size_t n, const uint64_t* keys, const uint64_t* scores, uint8_t* status)
        : name(name), n(n), keys(keys), scores(scores), status(status) {}
    const char* name;
    size_t n;
    const uint64_t* keys;
    const uint64_t* scores;
    uint8_t* status;
    const void* in = nullptr;
    void* out = nullptr;
    void** rows = nullptr;
    bool* founds = nullptr;
    const bool* accums = nullptr;
    bool inserts = false, reads = false, verbatim = false, touch_scores = true, pin = false;
    uint64_t* evicted_keys = nullptr;
    char* evicted_values = nullptr;
    uint64_t* evicted_scores = nullptr;
    std::atomic<uint64_t> evicted{0};
    uint64_t time = 0;
  };

  std::unique_ptr<Storage> Allocate(uint64_t capacity) const {
    try {
      return std::make_unique<Storage>(capacity, row_bytes_);
    } catch (const std::bad_alloc&) {
      accel::Fail("a host table of ", capacity, " rows of ", row_bytes_,
                  " bytes does not fit in memory");
    }
  }

  // Calls work(begin_thread, threads) on every thread.
  void Parallel(size_t n, const std::function<void(uint32_t, uint32_t)>& work) const {
    const auto threads = static_cast<uint32_t>(
        std::min<uint64_t>(num_threads_, std::max<uint64_t>(1, n / kKeysPerThread)));
    std::vector<std::thread> others;
    for (uint32_t t = 1; t < threads; ++t) others.emplace_back(work, t, threads);
    work(0, threads);
    for (std::thread& thread : others) thread.join();
  }

  void Read(const char* name, size_t n, const uint64_t* keys, void* values, void** rows,
            bool* founds, uint64_t* scores) const {
    CheckArray(name, "keys", n, keys);
    std::shared_lock<std::shared_mutex> guard(mutex_);
    Parallel(n, [&](uint32_t thread, uint32_t threads) {
      for (size_t i = n * thread / threads; i < n * (thread + 1) / threads; ++i) {
        uint64_t room;
        const uint64_t position = storage_->Find(keys[i], &room);
        const bool found = position != kNoPosition;
        if (founds != nullptr) founds[i] = found;
        if (rows != nullptr) rows[i] = found ? storage_->Row(position) : nullptr;
        if (found && scores != nullptr) scores[i] = storage_->scores[position];
        if (found && values != nullptr) {
          std::memcpy(static_cast<char*>(values) + i * row_bytes_, storage_->Row(position),
                      row_bytes_);
        }
      }
    });
  }

  void Write(Call& call) {
    CheckArray(call.name, "keys", call.n, call.keys);
    if (call.touch_scores) {
      CheckScores(call.name, strategy_, call.verbatim, call.n, call.scores);
    }
    std::unique_lock<std::shared_mutex> guard(mutex_);
    if (call.inserts) GrowFor(call.n);
    const auto steady = std::chrono::steady_clock::now().time_since_epoch();
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(steady).count();
    call.time = std::max(last_time_, static_cast<uint64_t>(ns));
    last_time_ = call.time + call.n;
    Parallel(call.n, [&](uint32_t thread, uint32_t threads) {
      for (size_t i = 0; i < call.n; ++i) {
        const Place place = storage_->layout.PlaceOf(call.keys[i]);
        if (threads > 1 && place.home % threads != thread) continue;
        PlaceLock lock(storage_.get(), place);
        const uint8_t status = WriteOne(call, i, place);
        if (call.status != nullptr) call.status[i] = status;
      }
    });
  }

  uint8_t WriteOne(Call& call, size_t i, const Place& place) {
    Storage& s = *storage_;
    const uint64_t key = call.keys[i];
    const uint64_t given = call.scores != nullptr ? call.scores[i] : kMaxScore;
    const bool accum = call.accums != nullptr && call.accums[i];
    uint64_t target;
    const uint64_t position = s.Find(key, &target);
    if (call.founds != nullptr) call.founds[i] = position != kNoPosition;
    if (call.rows != nullptr) call.rows[i] = nullptr;
    if (position != kNoPosition) {
      if (call.accums != nullptr && !accum) return kSkipped;
      if (!call.reads && s.pinned[position]) return kLocked;
      if (call.touch_scores) {
        uint64_t* score = &s.scores[position];
        *score =
            call.verbatim ? given : HitScore(strategy_, *score, given, call.time + i + 1, epoch_);
      }
      if (call.reads) {
        Copy(s.Row(position), Offset(call.out, i));
      } else if (accum) {
        Add(Offset(call.in, i), s.Row(position));
      } else {
        Copy(Offset(call.in, i), s.Row(position));
      }
      if (call.rows != nullptr) call.rows[i] = s.Row(position);
      if (call.pin) s.pinned[position] = 1;
      return kUpdated;
    }
    if (!call.inserts || accum) return kSkipped;

    const uint64_t score =
        call.verbatim ? given : InsertScore(strategy_, given, call.time + i + 1, epoch_);
    uint8_t status = kInserted;
    if (target == kNoPosition) {
      const uint64_t base = static_cast<uint64_t>(place.home) * kBucketSlots;
      for (uint64_t p = base; p < base + s.layout.SlotsOf(place.home); ++p) {
        if (!s.pinned[p] && (target == kNoPosition || s.scores[p] < s.scores[target])) target = p;
      }
      if (target == kNoPosition || score < s.scores[target]) {
        if (call.evicted_keys != nullptr) Evict(call, key, score, Offset(call.in, i));
        return kRefused;
      }
      if (call.evicted_keys != nullptr) {
        Evict(call, s.keys[target], s.scores[target], s.Row(target));
      }
      status = kEvicted;
    } else {
      ++s.size;
    }
    s.keys[target] = key;
    s.scores[target] = score;
    s.digests[target] = static_cast<uint8_t>(place.tag);
    Copy(Offset(call.in, i), s.Row(target));
    if (call.rows != nullptr) call.rows[i] = s.Row(target);
    if (call.pin) s.pinned[target] = 1;
    return status;
  }

  void Evict(Call& call, uint64_t key, uint64_t score, const char* row) const {
    const uint64_t at = call.evicted++;
    call.evicted_keys[at] = key;
    if (call.evicted_scores != nullptr) call.evicted_scores[at] = score;
    Copy(row, call.evicted_values + at * row_bytes_);
  }

  char* Offset(const void* rows, size_t i) const {
    return rows == nullptr ? nullptr
                           : const_cast<char*>(static_cast<const char*>(rows)) + i * row_bytes_;
  }

  void Copy(const char* from, char* to) const {
    if (from != nullptr && to != nullptr) std::memcpy(to, from, row_bytes_);
  }

  void Add(const char* delta, char* row) const {
    for (uint32_t d = 0; d < options_.dim; ++d) {
      if (value_type_ == ValueType::kFloat32) {
        float a, b;
        std::memcpy(&a, row + 4 * d, 4);
        std::memcpy(&b, delta + 4 * d, 4);
        a += b;
        std::memcpy(row + 4 * d, &a, 4);
      } else {
        uint16_t a, b;
        std::memcpy(&a, row + 2 * d, 2);
        std::memcpy(&b, delta + 2 * d, 2);
        a = value_type_ == ValueType::kFloat16
                ? accel::FloatToFloat16(accel::Float16ToFloat(a) + accel::Float16ToFloat(b))
                : accel::FloatToBFloat16(accel::BFloat16ToFloat(a) + accel::BFloat16ToFloat(b));
        std::memcpy(row + 2 * d, &a, 2);
      }
    }
  }

  void Pin(const char* name, size_t n, const uint64_t* keys, uint8_t value, bool* succeeded) {
    CheckArray(name, "keys", n, keys);
    std::unique_lock<std::shared_mutex> guard(mutex_);
    for (size_t i = 0; i < n; ++i) {
      uint64_t room;
      const uint64_t position = storage_->Find(keys[i], &room);
      const bool done = position != kNoPosition && storage_->pinned[position] != value;
      if (done) storage_->pinned[position] = value;
      if (succeeded != nullptr) succeeded[i] = done;
    }
  }

  // Calls visit(position) for the matching live keys of rows [begin, end).
  template <class Visit>
  void Scan(const Predicate& p, uint64_t begin, uint64_t end, Visit visit) const {
    for (uint64_t row = begin; row < end; ++row) {
      uint32_t bucket, slot;
      storage_->layout.Locate(row, &bucket, &slot);
      const uint64_t position = static_cast<uint64_t>(bucket) * kBucketSlots + slot;
      if (storage_->digests[position] < kFirstTag) continue;
      const uint64_t score = storage_->scores[position];
      if ((storage_->keys[position] & p.key_mask) == p.key_pattern && score >= p.score_min &&
          score <= p.score_max) {
        visit(position);
      }
    }
  }

  void GrowFor(size_t n) {
    uint64_t capacity = storage_->layout.capacity;
    const auto wanted = static_cast<double>(storage_->size.load() + n) / options_.max_load_factor;
    while (capacity < options_.max_capacity && static_cast<double>(capacity) < wanted) {
      capacity = std::min(2 * capacity, options_.max_capacity);
    }
    if (capacity > storage_->layout.capacity) Grow(capacity);
  }

  void Grow(uint64_t capacity) {
    std::unique_ptr<Storage> bigger = Allocate(capacity);
    Scan(Predicate(), 0, storage_->layout.capacity, [&](uint64_t position) {
      uint64_t target;
      const uint64_t key = storage_->keys[position];
      bigger->Find(key, &target);
      if (target == kNoPosition) {
        accel::Fail("reserve: the live keys do not fit into ", capacity,
                    " rows without an eviction");
      }
      bigger->keys[target] = key;
      bigger->scores[target] = storage_->scores[position];
      bigger->digests[target] = static_cast<uint8_t>(bigger->layout.PlaceOf(key).tag);
      bigger->pinned[target] = storage_->pinned[position];
      std::memcpy(bigger->Row(target), storage_->Row(position), row_bytes_);
      ++bigger->size;
    });
    storage_ = std::move(bigger);
  }

  HashTableOptions options_;
  KeyType key_type_;
  ValueType value_type_;
  EvictStrategy strategy_;
  size_t row_bytes_;
  int num_threads_ = 1;
  uint64_t epoch_ = 0;
  uint64_t last_time_ = 0;
  std::unique_ptr<Storage> storage_;
  mutable std::shared_mutex mutex_;
};

}  // namespace

std::unique_ptr<Table> CreateHostTable(const HashTableOptions& options, KeyType key,
                                       ValueType value, EvictStrategy strategy, int num_threads) {
  return std::make_unique<HostTable>(options, key, value, strategy, num_threads);
}

}  // namespace hkv
