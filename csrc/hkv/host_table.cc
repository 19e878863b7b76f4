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
#include <system_error>
#include <thread>
#include <unordered_set>
#include <vector>

#include "csrc/hkv/checks.h"
#include "csrc/hkv/host_rows.h"
#include "csrc/hkv/host_segments.h"
#include "csrc/hkv/host_storage.h"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/loading.h"
#include "csrc/hkv/relocation.h"
#include "csrc/hkv/score.h"
#include "csrc/hkv/table.h"
#include "csrc/hkv/table_file.h"

namespace hkv {
namespace {

constexpr size_t kKeysPerThread = 8192;  // smaller batches are not worth a thread

class HostTable final : public Table {
 public:
  HostTable(const HashTableOptions& options, KeyType key, ValueType value, EvictStrategy strategy,
            int num_threads)
      : Table(OnHost(options), key, value, strategy, "host"),
        row_bytes_(options.dim * SizeOf(value)) {
    if (num_threads < 0) {
      FailArgument("num_threads is ", num_threads, "; it must not be negative");
    }
    num_threads_ = num_threads > 0
                       ? num_threads
                       : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    InMemory(options_.init_capacity, [&] {
      storage_ = std::make_unique<Storage>(options_.init_capacity, row_bytes_);
      storage_->AllocateRows();
    });
    if (strategy == EvictStrategy::kEpochLru) set_clock(0);
  }

  uint64_t erase_if(const Predicate& predicate, Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    uint64_t erased = 0;
    Scan(predicate, 0, storage_->layout.capacity, [&](uint64_t position) {
      if (storage_->pinned[position]) return;
      storage_->Erase(position);
      ++erased;
    });
    return erased;
  }
  void clear(Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    storage_->Clear();
  }

  uint64_t size(Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    return storage_->size;
  }
  uint64_t size_if(const Predicate& predicate, Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    uint64_t matching = 0;
    Scan(predicate, 0, storage_->layout.capacity, [&](uint64_t) { ++matching; });
    return matching;
  }
  uint64_t locked(Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    return Held();
  }
  RowsView rows() const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    const uint64_t capacity = storage_->layout.capacity;
    return {storage_->rows[0], nullptr, row_bytes_, capacity, capacity};
  }
  uint64_t capacity() const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    return storage_->layout.capacity;
  }
  void reserve(uint64_t capacity, Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    CheckReserve(capacity, max_capacity_);
    if (capacity <= storage_->layout.capacity) return;
    if (Held()) accel::Fail("reserve: keys are locked, so their rows cannot move");
    Grow(capacity);
  }
  void set_max_capacity(uint64_t rows) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    CheckMaxCapacity(rows, storage_->layout.capacity);
    max_capacity_ = rows;
  }
  void set_global_epoch(uint64_t epoch) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    epoch_ = epoch;
  }

  void set_clock(uint64_t ns) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    clock_offset_ = ns - SteadyNs();
    last_time_ = 0;
  }

  uint64_t save(const std::string& path, Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    TableFileWriter writer(path, key_type(), value_type(), evict_strategy(), options_.dim,
                           storage_->size);
    const size_t chunk = ChunkRows(row_bytes_);
    Rows rows;
    const auto flush = [&] {
      writer.Append(rows.size(), rows.keys.data(), rows.scores.data(), rows.values.data());
      rows.Resize(0, row_bytes_);
    };
    Scan(Predicate(), 0, storage_->layout.capacity, [&](uint64_t position) {
      const char* row = storage_->Row(position);
      rows.keys.push_back(storage_->keys[position]);
      rows.scores.push_back(storage_->scores[position]);
      rows.values.insert(rows.values.end(), row, row + row_bytes_);
      if (rows.size() == chunk) flush();
    });
    flush();
    return writer.Commit();
  }
  uint64_t load(const std::string& path, Stream) override {
    const TableFileReader reader(path, key_type(), value_type(), evict_strategy(), options_.dim);
    std::unique_lock<std::shared_mutex> guard(mutex_);
    Loader loader(this);
    return Loading<Loader>(reader, &loader).Run();
  }
  void synchronize(Stream) const override {}

 private:
  // The engine of Loading; the table is locked.
  class Loader {
   public:
    explicit Loader(HostTable* table) : table_(*table) {}

    void Overwrite(const Rows& rows, uint8_t* status) {
      Storage& s = *table_.storage_;
      for (size_t i = 0; i < rows.size(); ++i) {
        table_.PassClock(rows.scores[i]);
        const uint64_t position = s.Find(rows.keys[i]);
        status[i] = position == kNoPosition ? kSkipped : s.pinned[position] ? kLocked : kUpdated;
        if (status[i] == kUpdated) Set(position, rows, i);
      }
    }

    uint64_t Grow(uint64_t absent) {
      table_.GrowTo(table_.storage_->size + absent);
      return table_.storage_->layout.capacity;
    }
    uint64_t Size() const { return table_.storage_->size; }
    void Scores(std::vector<uint64_t>* scores) const {
      table_.Scan(Predicate(), 0, table_.storage_->layout.capacity,
                  [&](uint64_t p) { scores->push_back(table_.storage_->scores[p]); });
    }
    void EraseBelow(uint64_t score) {
      table_.Scan(Predicate(), 0, table_.storage_->layout.capacity, [&](uint64_t p) {
        Storage& s = *table_.storage_;
        if (s.scores[p] < score && !s.pinned[p]) s.Erase(p);
      });
    }

    void Insert(const Rows& rows) {
      Storage& s = *table_.storage_;
      for (size_t i = 0; i < rows.size(); ++i) {
        uint64_t target;
        uint64_t position = s.Find(rows.keys[i], &target);
        if (position == kNoPosition && target != kNoPosition) {
          const uint32_t tag = s.layout.PlaceOf(rows.keys[i]).tag;
          s.Put(target, true, rows.keys[i], rows.scores[i], tag);
          if (relocation_ != nullptr) relocation_->Took(target);
          position = target;
        } else if (position == kNoPosition) {
          position = Relocate(rows.keys[i], rows.scores[i]);
        }
        if (position != kNoPosition) Set(position, rows, i);
      }
    }
    void Finish(std::vector<uint64_t>* left) { *left = left_; }

   private:
    void Set(uint64_t position, const Rows& rows, size_t i) {
      table_.storage_->scores[position] = rows.scores[i];
      table_.Copy(rows.values.data() + i * table_.row_bytes_, table_.storage_->Row(position));
    }

    uint64_t Relocate(uint64_t key, uint64_t score) {
      Storage& s = *table_.storage_;
      if (relocation_ == nullptr) relocation_ = std::make_unique<Relocation>(s.AsSlots());
      bool replaces = false;
      const uint64_t position = relocation_->Put(
          key, score, [&](uint64_t from, uint64_t to) { table_.Copy(s.Row(from), s.Row(to)); },
          [&](uint64_t p) {
            left_.push_back(s.keys[p]);
            replaces = true;
          });
      if (position == kNoPosition) left_.push_back(key);
      if (position != kNoPosition && !replaces) ++s.size;
      return position;
    }

    HostTable& table_;
    std::unique_ptr<Relocation> relocation_;
    std::vector<uint64_t> left_;
  };

  static uint64_t SteadyNs() {
    const auto steady = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(steady).count());
  }

  // Moves the clock behind a score that was written by another one.
  void PassClock(uint64_t score) {
    const uint64_t ns = ClockOf(evict_strategy(), score, &epoch_);
    if (ns == 0) return;
    const uint64_t now = SteadyNs() + clock_offset_;
    if (ns >= now) clock_offset_ += ns + 1 - now;
  }

  static HashTableOptions OnHost(const HashTableOptions& options) {
    HashTableOptions checked = CheckedOptions(options);
    checked.device_id = -1;
    return checked;
  }

  // Does what takes memory for so many rows.
  template <class Work>
  void InMemory(uint64_t capacity, Work work) const {
    try {
      work();
    } catch (const std::bad_alloc&) {
      throw MemoryRefused(accel::ErrorText("a host table of ", capacity, " rows of ", row_bytes_,
                                           " bytes does not fit in memory"));
    }
  }

  uint32_t Shares(size_t n) const {
    return static_cast<uint32_t>(
        std::min<uint64_t>(num_threads_, std::max<uint64_t>(1, n / kKeysPerThread)));
  }

  // Calls work(share, shares) for every share, on as many threads as there are; on_all: each has
  // its own.
  void Parallel(
      size_t n, const std::function<void(uint32_t, uint32_t)>& work,
      const std::function<void()>& on_all = [] {}) const {
    const uint32_t shares = Shares(n);
    if (shares == 1) return work(0, 1);
    std::vector<std::thread> others;
    others.reserve(shares - 1);
    std::atomic<uint32_t> next{0};
    const auto run = [&] {
      for (uint32_t share; (share = next++) < shares;) work(share, shares);
    };
    try {
      while (others.size() + 1 < shares) others.emplace_back(run);
      on_all();
    } catch (const std::system_error&) {
      // The machine gives no more threads: those there are do it all.
    }
    run();
    for (std::thread& thread : others) thread.join();
  }

  void Do(const Read& call, Stream) override {
    std::unique_ptr<bool[]> own;
    bool* founds = call.founds;
    if (call.missed_size != nullptr && founds == nullptr) {
      own.reset(new bool[call.n]);
      founds = own.get();
    }
    std::shared_lock<std::shared_mutex> guard(mutex_);
    Parallel(call.n, [&](uint32_t thread, uint32_t threads) {
      for (size_t i = call.n * thread / threads; i < call.n * (thread + 1) / threads; ++i) {
        const uint64_t position = storage_->Find(call.keys[i]);
        const bool found = position != kNoPosition;
        if (founds != nullptr) founds[i] = found;
        if (call.rows != nullptr) call.rows[i] = found ? storage_->Row(position) : nullptr;
        if (call.row_numbers != nullptr) {
          call.row_numbers[i] = found ? storage_->RowNumber(position) : kNoRow;
        }
        if (found && call.scores != nullptr) call.scores[i] = storage_->scores[position];
        if (found) Copy(storage_->Row(position), Offset(call, i));
      }
    });
    if (call.missed_size == nullptr) return;
    *call.missed_size = 0;
    for (size_t i = 0; i < call.n; ++i) {
      if (founds[i]) continue;
      call.missed_keys[*call.missed_size] = call.keys[i];
      call.missed_indices[(*call.missed_size)++] = static_cast<int32_t>(i);
    }
  }

  void Do(const Write& call, Stream) override {
    std::unique_lock<std::shared_mutex> guard(mutex_);
    if (call.mode >= WriteMode::kErase) {
      for (size_t i = 0; i < call.n; ++i) ChangeState(call, i);
      return;
    }
    if (Inserts(call.mode)) GrowFor(call);
    rule_ = RuleOf(call);
    if (HandsOutRows(call)) ++number_;
    time_ = std::max(last_time_, SteadyNs() + clock_offset_);
    last_time_ = time_ + call.n;
    evicted_ = 0;
    Pace pace(Shares(call.n));
    const auto work = [&](uint32_t thread, uint32_t threads) {
      for (size_t i = 0; i < call.n; ++i) {
        pace.At(thread, i);
        const Place place = storage_->layout.PlaceOf(call.keys[i]);
        if (threads > 1 && place.home % threads != thread) continue;
        PlaceLock lock(storage_.get(), place);
        const uint8_t status = WriteOne(call, i, place);
        if (call.status != nullptr) call.status[i] = status;
      }
      pace.Done(thread);
    };
    Parallel(call.n, work, [&] { pace.AllRun(); });
    if (call.evicted_count != nullptr) *call.evicted_count = evicted_;
  }

  // Erases a key, or changes its holders.
  void ChangeState(const Write& call, size_t i) {
    Storage& s = *storage_;
    const uint64_t position =
        call.mode == WriteMode::kUnlockRows ? Position(call, i) : s.Find(call.keys[i]);
    const bool asked =
        (call.accums == nullptr || call.accums[i]) && (call.size == nullptr || i < *call.size);
    const bool found = asked && position != kNoPosition;
    if (call.mode == WriteMode::kErase) {
      const bool erases = found && !s.pinned[position];
      if (erases) s.Erase(position);
      if (call.status != nullptr) call.status[i] = !found ? kSkipped : erases ? kUpdated : kLocked;
      return;
    }
    bool changes = found;
    if (call.mode == WriteMode::kLock) changes = found && s.holders[position] == 0;
    if (changes && call.mode <= WriteMode::kHold) {
      s.Hold(position);
    } else if (changes) {
      changes = s.LetGo(position);
    }
    if (call.founds != nullptr) call.founds[i] = changes;
  }

  // Of a row number that a call gave; those that none gave have none.
  uint64_t Position(const Write& call, size_t i) const {
    const Layout& layout = storage_->layout;
    if (call.row_numbers[i] >= layout.capacity) return kNoPosition;
    uint32_t bucket, slot;
    layout.Locate(call.row_numbers[i], &bucket, &slot);
    return static_cast<uint64_t>(bucket) * kBucketSlots + slot;
  }

  uint8_t WriteOne(const Write& call, size_t i, const Place& place) {
    Storage& s = *storage_;
    const bool reads = ReadsValues(call.mode);
    const uint64_t key = call.keys[i];
    const uint64_t given = call.scores != nullptr ? call.scores[i] : kMaxScore;
    const bool accum = call.accums != nullptr && call.accums[i];
    char* const mine = Offset(call, i);
    uint64_t target;
    const uint64_t position = s.Find(key, &target);
    if (call.founds != nullptr) call.founds[i] = position != kNoPosition;
    if (call.rows != nullptr) call.rows[i] = nullptr;
    if (call.row_numbers != nullptr) call.row_numbers[i] = kNoRow;
    if (position != kNoPosition) {
      if (call.accums != nullptr && !accum) return kSkipped;
      if (!reads && s.pinned[position]) return kLocked;
      s.scores[position] = HitScore(rule_, s.scores[position], given, time_ + i + 1, epoch_);
      if (reads) {
        Copy(s.Row(position), mine);
      } else if (accum) {
        AddRow(value_type(), options_.dim, mine, s.Row(position));
      } else {
        Copy(mine, s.Row(position));
      }
      Report(call, i, position);
      return kUpdated;
    }
    if (!Inserts(call.mode) || accum) return kSkipped;

    const uint64_t score = InsertScore(rule_, given, time_ + i + 1, epoch_);
    const uint8_t status = target != kNoPosition ? kInserted : kEvicted;
    if (status == kEvicted) {
      target = s.SmallestScore(place, options_.evict_from, HandsOutRows(call) ? number_ : 0);
      const bool admits = options_.newcomers == Newcomers::kAlways;
      if (target == kNoPosition || (score < s.scores[target] && !admits)) {
        if (call.mode == WriteMode::kInsertAndEvict) ListEvicted(call, key, score, mine);
        return kRefused;
      }
      if (call.evicted_keys != nullptr) {
        ListEvicted(call, s.keys[target], s.scores[target], s.Row(target));
      }
    }
    s.Put(target, status == kInserted, key, score, place.tag);
    Copy(mine, s.Row(target));
    Report(call, i, target);
    return status;
  }

  void Report(const Write& call, size_t i, uint64_t position) {
    if (call.rows != nullptr) call.rows[i] = storage_->Row(position);
    if (call.row_numbers != nullptr) call.row_numbers[i] = storage_->RowNumber(position);
    if (call.out_scores != nullptr) call.out_scores[i] = storage_->scores[position];
    if (call.pin) storage_->Hold(position);
    if (HandsOutRows(call)) storage_->given[position] = number_;
  }

  void ListEvicted(const Write& call, uint64_t key, uint64_t score, const char* row) {
    const uint64_t at = evicted_++;
    call.evicted_keys[at] = key;
    if (call.evicted_scores != nullptr) call.evicted_scores[at] = score;
    if (call.evicted_values != nullptr) Copy(row, call.evicted_values + at * Pitch(call));
  }

  // -- many tables: one after the other, each with its own threads

  void DoAll(const Segments& segments, const Read& call, Stream stream) override {
    CheckOffsets(segments, call.name, call.n);
    for (uint64_t t = 0; t < segments.count; ++t) {
      static_cast<HostTable*>(segments.tables[t])->Do(PartOf(segments, call, t), stream);
    }
  }

  void DoAll(const Segments& segments, const Write& call, Stream stream) override {
    CheckOffsets(segments, call.name, call.n);
    for (uint64_t t = 0; t < segments.count; ++t) {
      auto* const table = static_cast<HostTable*>(segments.tables[t]);
      Write part = PartOf(segments, call, t);
      if (NeedsClock(table->RuleOf(call))) part.scores = nullptr;
      table->Do(part, stream);
    }
  }

  void DoAll(const Segments& segments, const SegmentsExport& call, Stream stream) const override {
    for (uint64_t t = 0; t < segments.count; ++t) {
      static_cast<const HostTable*>(segments.tables[t])->Do(PartOf(call, t), stream);
    }
  }

  void Do(const Export& call, Stream) const override {
    std::shared_lock<std::shared_mutex> guard(mutex_);
    CheckRange(call, storage_->layout.capacity);
    *call.count = 0;
    Scan(call.predicate, call.begin, call.end, [&](uint64_t position) {
      const uint64_t at = (*call.count)++;
      if (call.keys != nullptr) call.keys[at] = storage_->keys[position];
      if (call.scores != nullptr) call.scores[at] = storage_->scores[position];
      Copy(storage_->Row(position), Offset(call, at));
    });
  }

  template <class Call>
  uint64_t Pitch(const Call& call) const {
    return call.pitch == 0 ? row_bytes_ : call.pitch;
  }

  // Row i of the call's values.
  template <class Call>
  char* Offset(const Call& call, size_t i) const {
    return call.values == nullptr ? nullptr : call.values + i * Pitch(call);
  }

  void Copy(const char* from, char* to) const {
    if (from != nullptr && to != nullptr) std::memcpy(to, from, row_bytes_);
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

  // Makes room for a batch as its keys ask for it: only absent ones count, equal ones once.
  void GrowFor(const Write& call) {
    const uint64_t capacity = storage_->layout.capacity;
    if (capacity == max_capacity_ || Fits(storage_->size + call.n, capacity)) return;
    if (Held()) return;  // later: their rows may not move
    std::unordered_set<uint64_t> absent;
    for (size_t i = 0; i < call.n; ++i) {
      if (storage_->Find(call.keys[i]) == kNoPosition) absent.insert(call.keys[i]);
    }
    GrowTo(storage_->size + absent.size());
  }

  uint64_t Held() const {
    const auto& pinned = storage_->pinned;
    return std::count_if(pinned.begin(), pinned.end(), [](uint8_t p) { return p != 0; });
  }

  bool Fits(uint64_t rows, uint64_t capacity) const {
    return static_cast<double>(rows) <= options_.max_load_factor * static_cast<double>(capacity);
  }

  void GrowTo(uint64_t rows) {
    const uint64_t most = max_capacity_;
    uint64_t capacity = storage_->layout.capacity;
    while (capacity < most && !Fits(rows, capacity)) capacity = std::min(2 * capacity, most);
    if (capacity == storage_->layout.capacity) return;
    try {
      Grow(capacity);
    } catch (const MemoryRefused&) {
      // Not twice as many rows, then: as many as are needed.
      const uint64_t needed = NeededCapacity(rows, options_.max_load_factor);
      if (needed >= capacity) throw;
      Grow(needed);
    }
  }

  // First all keys find their place; then the rows' memory grows, and the rows move in it.
  void Grow(uint64_t capacity) {
    Storage& old = *storage_;
    InMemory(capacity, [&] {
      auto bigger = std::make_unique<Storage>(capacity, row_bytes_);
      std::vector<uint32_t> to(old.layout.capacity, kStays);
      std::vector<char> spare(2 * row_bytes_);
      Scan(Predicate(), 0, old.layout.capacity, [&](uint64_t position) {
        uint64_t target;
        const uint64_t key = old.keys[position];
        bigger->Find(key, &target);
        if (target == kNoPosition) {
          accel::Fail("reserve: the live keys do not fit into ", capacity,
                      " rows without an eviction");
        }
        bigger->Put(target, true, key, old.scores[position], bigger->layout.PlaceOf(key).tag);
        to[old.RowNumber(position)] = static_cast<uint32_t>(bigger->RowNumber(target));
      });
      old.rows.Resize(capacity * row_bytes_);
      MoveRows(old.rows, row_bytes_, std::move(to), spare.data());
      bigger->rows = std::move(old.rows);
      storage_ = std::move(bigger);
    });
  }

  const size_t row_bytes_;
  int num_threads_ = 1;
  uint64_t epoch_ = 0;
  uint64_t time_ = 0;  // of the call that is being done; key i of it has time_ + i + 1
  uint64_t last_time_ = 0;
  uint64_t clock_offset_ = 0;           // of the table's clock from the steady one
  uint64_t number_ = 0;                 // of the call that hands out rows
  ScoreRule rule_ = ScoreRule::kGiven;  // of the call that is being done
  std::atomic<uint64_t> evicted_{0};    // by the call that is being done
  std::unique_ptr<Storage> storage_;
  mutable std::shared_mutex mutex_;
};

}  // namespace

std::unique_ptr<Table> CreateHostTable(const HashTableOptions& options, KeyType key,
                                       ValueType value, EvictStrategy strategy, int num_threads) {
  CheckOfLibrary(value);
  return std::make_unique<HostTable>(options, key, value, strategy, num_threads);
}

}  // namespace hkv
