// File: ops.cc
//
// The torch ops of causal convolution: schemas, and implementations for GPUs that turn tensors into
// the arguments of kernels. Whatever can be said of a call without the values of its tensors is
// checked here, before anything is allocated or launched. CPU, autograd and fake implementations
// are in Python.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>

#include "csrc/causal_conv1d/conv.h"
#include "csrc/causal_conv1d/hip_launcher.h"
#include "csrc/causal_conv1d/launch.h"
#include "csrc/causal_conv1d/plan.h"
#include "csrc/causal_conv1d/tensor_ops.h"
#include "csrc/common/build_info.h"
#include "csrc/common/device.h"
#include "csrc/common/environment.h"
#include "csrc/common/errors.h"
#include "csrc/common/op_arguments.h"
#include "csrc/common/stable_torch.h"
#include "csrc/common/tensor_checks.h"

ACCEL_PACKAGE("causal_conv1d");

namespace accel::conv1d {
namespace {

// ---- Arguments, in the order of the schemas

struct Common {
  OpArguments& in;
  Tensor x = in.GetTensor("x");                                      // (batch, channels, tokens)
  Tensor weight = in.GetTensor("weight");                            // (channels, width)
  MaybeTensor bias = in.GetMaybeTensor("bias");                      // (channels)
  MaybeTensor seq_idx = in.GetMaybeTensor("seq_idx");                // (batch, tokens) int32
  MaybeTensor initial_states = in.GetMaybeTensor("initial_states");  // (batch, channels, width - 1)
  MaybeTensor cu_seqlens = in.GetMaybeTensor("cu_seqlens");          // (sequences + 1) int32
};

struct Forward : Common {
  explicit Forward(OpArguments& in) : Common{in} {}
  bool return_final_states = in.GetBool("return_final_states");
  bool silu = in.GetBool("silu");
};

struct Backward {
  OpArguments& in;
  Tensor dout = in.GetTensor("dout");
  Common of{in};
  MaybeTensor dfinal_states = in.GetMaybeTensor("dfinal_states");
  bool return_dinitial_states = in.GetBool("return_dinitial_states");
  bool silu = in.GetBool("silu");
};

struct Update {
  OpArguments& in;
  Tensor x = in.GetTensor("x");                     // (batch, channels, tokens)
  Tensor conv_state = in.GetWritten("conv_state");  // (lines, channels, >= width - 1)
  Tensor weight = in.GetTensor("weight");
  MaybeTensor bias = in.GetMaybeTensor("bias");
  MaybeTensor cache_seqlens = in.GetMaybeTensor("cache_seqlens");            // (batch) int32
  MaybeTensor conv_state_indices = in.GetMaybeTensor("conv_state_indices");  // (batch) int32
  bool silu = in.GetBool("silu");
};

struct Packed {
  OpArguments& in;
  Tensor x = in.GetTensor("x");  // (1, channels, tokens)
  Tensor weight = in.GetTensor("weight");
  MaybeTensor bias = in.GetMaybeTensor("bias");
  Tensor conv_states = in.GetWritten("conv_states");         // (lines, channels, >= width - 1)
  Tensor query_start_loc = in.GetTensor("query_start_loc");  // (sequences + 1) int32
  MaybeTensor cache_indices = in.GetMaybeTensor("cache_indices");              // (sequences) int32
  MaybeTensor has_initial_state = in.GetMaybeTensor("has_initial_state");      // (sequences) bool
  MaybeTensor num_accepted_tokens = in.GetMaybeTensor("num_accepted_tokens");  // (sequences) int32
  bool silu = in.GetBool("silu");
  int64_t pad_slot_id = in.GetInt("pad_slot_id");
};

// ---- Launches

const Entry& Named(const char* kind, Type type, int width, bool seq = false) {
  constexpr const char* kTypes[] = {"fp32", "fp16", "bf16"};
  const std::string name = std::string("conv1d_") + kind + (seq ? "_seq_" : "_") +
                           kTypes[static_cast<int>(type)] + "_w" + std::to_string(TapsFor(width));
  for (int i = 0; i < kEntryCount; ++i) {
    if (name == kEntries[i].name) return kEntries[i];
  }
  Fail("the kernel ", name, " is not in this build");
}

const Entry& SumEntry() {
  for (int i = 0; i < kEntryCount; ++i) {
    if (std::strcmp(kEntries[i].name, "conv1d_backward_sum") == 0) return kEntries[i];
  }
  Fail("the kernel conv1d_backward_sum is not in this build");
}

template <class Args>
void Launch(const Entry& entry, int64_t blocks, const Args& args, const Tensor& x) {
  Check(static_cast<size_t>(entry.args_bytes) == sizeof(Args), entry.name, " takes ",
        entry.args_bytes, " bytes, not ", sizeof(Args));
  // Kernels count groups of lanes by 32 bits.
  Check(blocks * (kThreads / kGroupLanes) <= std::numeric_limits<uint32_t>::max(), entry.name,
        " would need ", blocks, " blocks");
  if (blocks == 0) return;
  void* const stream = CurrentStream(x.get_device_index());
  if (OnHip()) return LaunchHip(entry, blocks, &args, stream);
  const int code = LaunchCuda(entry, blocks, &args, stream);
  CheckLaunch(code, entry.name, CAUSAL_CONV1D_ARCHS);
}

int64_t Blocks(int64_t threads) { return CeilDiv<int64_t>(threads, kThreads); }

Device ThisDevice() {
  const int processors = OnHip() ? HipProcessors() : ProcessorCount();
  return {processors > 0 ? processors : 128, EnvironmentNumber("CAUSAL_CONV1D_CHUNK", 1, 1 << 20)};
}

// ---- Forward and backward

struct Problem {
  Tensor x;
  int batch, channels, tokens, sequences;  // sequences: as many states as there are
  bool last, packed;
  Weights weights;
  MaybeTensor seq_idx;
  const int32_t* starts = nullptr;
};

Problem ProblemOf(const Common& a, bool silu) {
  Check(a.x.is_cuda() && a.x.dim() == 3, "x must be a GPU tensor (batch, channels, tokens), got ",
        accel::Shape{a.x});
  TypeOf(a.x, "x");
  const bool packed = a.cu_seqlens.has_value();
  Check(!packed || a.x.size(0) == 1, "with cu_seqlens x must have a batch of 1, got ",
        accel::Shape{a.x});
  Check(!packed || !a.seq_idx, "cu_seqlens and seq_idx exclude each other");
  const bool last = packed || ChannelLast(a.x) || !ChannelFirst(a.x);
  Problem p{packed ? a.x : InLayout(a.x, ChannelLast(a.x)),
            ToInt32(a.x.size(0), "batch"),
            ToInt32(a.x.size(1), "channels"),
            ToInt32(a.x.size(2), "tokens"),
            0,
            last && (packed || ChannelLast(a.x)),
            packed,
            WeightsOf(a.weight, a.bias, silu, a.x, a.x.size(1)),
            std::nullopt};
  p.sequences = p.batch;
  if (packed) {
    p.sequences = ToInt32(a.cu_seqlens->numel() - 1, "sequences");
    Check(p.sequences >= 0, "cu_seqlens must have sequences + 1 elements, got none");
    p.starts = Int32Of(a.cu_seqlens, "cu_seqlens", p.sequences + 1, a.x);
  }
  if (a.seq_idx) {
    Check(a.seq_idx->scalar_type() == ScalarType::Int && a.seq_idx->dim() == 2 &&
              a.seq_idx->size(0) == p.batch && a.seq_idx->size(1) == p.tokens &&
              (p.tokens <= 1 || a.seq_idx->stride(1) == 1) && OnDeviceOf(*a.seq_idx, a.x),
          "seq_idx must be int32 (", p.batch, ", ", p.tokens,
          ") with last stride 1 on the device of x, got ", accel::Shape{*a.seq_idx});
    if (p.tokens > 0) p.seq_idx = a.seq_idx;
  }
  if (a.initial_states) {
    CheckSizes(*a.initial_states, "initial_states", p.sequences, p.channels, p.weights.width - 1,
               a.x);
  }
  return p;
}

const int32_t* SeqIdx(const Problem& p) {
  return p.seq_idx ? static_cast<const int32_t*>(p.seq_idx->const_data_ptr()) : nullptr;
}
int64_t SeqIdxStride(const Problem& p) { return p.seq_idx ? p.seq_idx->stride(0) : 0; }

void LaunchPacked(PackedArgs* a, Type type, const Device& device, const Tensor& x, int channels,
                  int tokens) {
  const int each = ChannelsFor(TapsFor(a->weights.width), x.element_size());
  a->sizes = WalkSizes(1, channels, tokens, each, device, kPackedWalk);
  const int64_t chunks = static_cast<int64_t>(a->sizes.chunks) + a->sequences;
  Launch(Named("packed", type, a->weights.width), Blocks(WalkThreads(a->sizes, chunks)), *a, x);
}

std::tuple<Tensor, Tensor> Fwd(const Forward& a) {
  const Problem p = ProblemOf(a, a.silu);
  Check(!(a.return_final_states && a.seq_idx),
        "return_final_states with seq_idx: states of each fragment need cu_seqlens");
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  const int history = p.weights.width - 1;
  const Tensor out = EmptyLaidOut(p.x, p.batch, p.channels, p.tokens, p.last);
  Tensor last = a.return_final_states ? EmptyLaidOut(p.x, p.sequences, p.channels, history, true)
                                      : EmptyLike(p.x, int64_t{0});
  if (p.channels == 0 || p.sequences == 0) {
    if (p.sequences == 0 && p.tokens > 0) torch::stable::zero_(const_cast<Tensor&>(out));
    return {out, last};
  }
  const Type type = TypeOf(p.x, "x");
  const Device device = ThisDevice();
  const int value = static_cast<int>(p.x.element_size());
  const int each = ChannelsFor(TapsFor(p.weights.width), value);
  if (p.packed) {
    PackedArgs k{};
    k.x = ValuesOf(p.x, each);
    k.out = ValuesOf(out, each);
    k.weights = p.weights;
    k.before = ValuesOf(a.initial_states, each);
    if (a.return_final_states) k.after = ValuesOf(last, each);
    k.starts = p.starts;
    k.sequences = k.line_count = p.sequences;
    k.pad_line = -1;
    k.columns = history;
    k.all_initial = a.initial_states.has_value();
    LaunchPacked(&k, type, device, p.x, p.channels, p.tokens);
    return {out, last};
  }
  ForwardArgs k{};
  k.x = ValuesOf(p.x, each);
  k.out = ValuesOf(out, each);
  k.weights = p.weights;
  k.initial = ValuesOf(a.initial_states, each);
  if (a.return_final_states) k.last = ValuesOf(last, each);
  k.seq_idx = SeqIdx(p);
  k.seq_idx_stride = SeqIdxStride(p);
  k.sizes =
      p.last ? WalkSizes(p.batch, p.channels, p.tokens, each, device, ForwardWalk(value))
             : LineSizes(p.batch, p.channels, p.tokens, value, LeadOf(p.x), kForwardSteps, device);
  const int64_t chunks = static_cast<int64_t>(p.batch) * k.sizes.chunks;
  Launch(Named(p.last ? "forward_last" : "forward_first", type, p.weights.width,
               p.seq_idx.has_value()),
         Blocks(p.last ? WalkThreads(k.sizes, chunks) : chunks * p.channels * kGroupLanes), k, p.x);
  return {out, last};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> Bwd(const Backward& a) {
  const Problem p = ProblemOf(a.of, a.silu);
  const int history = p.weights.width - 1;
  CheckSizes(a.dout, "dout", p.batch, p.channels, p.tokens, p.x);
  if (a.dfinal_states) {
    CheckSizes(*a.dfinal_states, "dfinal_states", p.sequences, p.channels, history, p.x);
    Check(!a.of.seq_idx, "dfinal_states and seq_idx exclude each other");
  }
  Check(!a.return_dinitial_states || a.of.initial_states,
        "return_dinitial_states needs initial_states");
  const torch::stable::accelerator::DeviceGuard guard(p.x.get_device_index());
  const Tensor dout = InLayout(a.dout, p.last);
  const Tensor dx = EmptyLaidOut(p.x, p.batch, p.channels, p.tokens, p.last);
  const std::array<int64_t, 2> shape = {p.channels, p.weights.width};
  Tensor dweight = EmptyLike(a.of.weight, shape);
  Tensor dbias = EmptyLike(a.of.weight, int64_t{a.of.bias ? p.channels : 0});
  Tensor dinitial = a.return_dinitial_states
                        ? EmptyLaidOut(p.x, p.sequences, p.channels, history, true)
                        : EmptyLike(p.x, int64_t{0});
  if (p.channels == 0 || p.sequences == 0) {
    for (Tensor t : {dx, dweight, dbias, dinitial}) torch::stable::zero_(t);
    return {dx, dweight, dbias, dinitial};
  }

  const int value = static_cast<int>(p.x.element_size()), taps = TapsFor(p.weights.width);
  const int each = ChannelsFor(taps, value);
  BackwardArgs k{};
  k.x = ValuesOf(p.x, each);
  k.dout = ValuesOf(dout, each);
  k.dx = ValuesOf(dx, each);
  k.weights = p.weights;
  k.initial = ValuesOf(a.of.initial_states, each);
  if (a.return_dinitial_states) k.dinitial = ValuesOf(dinitial, each);
  k.dlast = ValuesOf(a.dfinal_states, each);
  k.seq_idx = SeqIdx(p);
  k.seq_idx_stride = SeqIdxStride(p);
  k.starts = p.starts;
  k.sequences = p.sequences;
  const Device device = ThisDevice();
  constexpr int kPieces = kThreads / kGroupLanes;
  int64_t parts = 0, blocks = 0;
  if (p.last) {
    k.sizes = WalkSizes(p.batch, p.channels, p.tokens, each, device, BackwardWalk(value));
    k.sizes.chunks = Max(CeilDiv(k.sizes.chunks, kPieces), 1);  // of a block
    parts = static_cast<int64_t>(p.batch) * k.sizes.chunks;
    blocks = parts * CeilDiv(k.sizes.groups, kGroupLanes);
  } else {
    const int vector = 16 / value;
    const int lead =
        LeadOf(p.x) + (a.return_dinitial_states ? CeilDiv(taps - 1, vector) * vector : 0);
    k.sizes = LineSizes(p.batch, p.channels, p.tokens, value, lead, kBackwardSteps, device);
    parts = static_cast<int64_t>(p.batch) * k.sizes.chunks;
    blocks = Blocks(parts * p.channels * kGroupLanes);
  }
  const Scratch partial(p.x, static_cast<size_t>(parts) * (taps + 1) * p.channels * sizeof(float));
  k.partial = partial.data();
  Launch(Named(p.last ? "backward_last" : "backward_first", TypeOf(p.x, "x"), p.weights.width,
               p.seq_idx.has_value()),
         blocks, k, p.x);

  SumArgs sum{};
  sum.partial = k.partial;
  sum.dweight = dweight.mutable_data_ptr();
  sum.dbias = a.of.bias ? dbias.mutable_data_ptr() : nullptr;
  sum.parts = ToInt32(parts, "parts");
  sum.channels = p.channels;
  sum.taps = taps;
  sum.width = p.weights.width;
  sum.type = p.weights.type;
  const int64_t sums = p.weights.width + (a.of.bias ? 1 : 0);
  Launch(SumEntry(), sums * CeilDiv(p.channels, kGroupLanes), sum, p.x);
  return {dx, dweight, dbias, dinitial};
}

// ---- State lines

void CheckLines(const Tensor& states, const char* name, int64_t channels, int width,
                const Tensor& x) {
  Check(states.dim() == 3 && states.size(1) == channels && states.size(2) >= width - 1 &&
            states.scalar_type() == x.scalar_type() && OnDeviceOf(states, x),
        name, " must be (lines, ", channels, ", >= ", width - 1,
        ") with the dtype and device of x, got ", accel::Shape{states});
}

Tensor UpdateStep(const Update& a) {
  Check(a.x.is_cuda() && a.x.dim() == 3, "x must be a GPU tensor (batch, channels, tokens), got ",
        accel::Shape{a.x});
  const Type type = TypeOf(a.x, "x");
  const int batch = ToInt32(a.x.size(0), "batch"), channels = ToInt32(a.x.size(1), "channels");
  UpdateArgs k{};
  k.weights = WeightsOf(a.weight, a.bias, a.silu, a.x, channels);
  CheckLines(a.conv_state, "conv_state", channels, k.weights.width, a.x);
  Check(a.conv_state_indices || a.conv_state.size(0) == batch, "conv_state has ",
        a.conv_state.size(0), " lines for a batch of ", batch,
        ": conv_state_indices must say which");
  k.lengths = Int32Of(a.cache_seqlens, "cache_seqlens", batch, a.x);
  k.lines = Int32Of(a.conv_state_indices, "conv_state_indices", batch, a.x);
  k.line_count = ToInt32(a.conv_state.size(0), "lines");
  k.columns = ToInt32(a.conv_state.size(2), "columns");
  k.sizes = {batch, channels, ToInt32(a.x.size(2), "tokens"), CeilDiv(channels, kUpdateChannels)};
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  const Tensor out = EmptyLaidOut(a.x, batch, channels, a.x.size(2), ChannelLast(a.x));
  if (batch == 0 || channels == 0) return out;
  k.x = ValuesOf(a.x, kUpdateChannels);
  k.out = ValuesOf(out, kUpdateChannels);
  k.state = ValuesOf(a.conv_state, kUpdateChannels);
  const Tensor& state = a.conv_state;
  k.flat =
      a.x.size(2) == 1 && !k.lengths && k.columns <= TapsFor(k.weights.width) &&
      k.columns >= TapsFor(k.weights.width) - 1 && state.stride(2) == 1 &&
      state.stride(1) == k.columns && state.stride(0) % kUpdateChannels == 0 &&
      reinterpret_cast<uintptr_t>(k.state.data) % (kUpdateChannels * state.element_size()) == 0;
  k.sizes.chunk = UpdateChunk(batch, k.sizes.groups, ThisDevice());
  Launch(Named("update", type, k.weights.width),
         Blocks(int64_t{CeilDiv(batch, k.sizes.chunk)} * k.sizes.groups), k, a.x);
  return out;
}

Tensor PackedStep(const Packed& a) {
  Check(a.x.is_cuda() && a.x.dim() == 3 && a.x.size(0) == 1,
        "x must be a GPU tensor (1, channels, tokens), got ", accel::Shape{a.x});
  const Type type = TypeOf(a.x, "x");
  const int channels = ToInt32(a.x.size(1), "channels"), tokens = ToInt32(a.x.size(2), "tokens");
  PackedArgs k{};
  k.weights = WeightsOf(a.weight, a.bias, a.silu, a.x, channels);
  CheckLines(a.conv_states, "conv_states", channels, k.weights.width, a.x);
  k.sequences = ToInt32(a.query_start_loc.numel() - 1, "sequences");
  Check(k.sequences >= 0, "query_start_loc must have sequences + 1 elements, got none");
  k.starts = Int32Of(a.query_start_loc, "query_start_loc", k.sequences + 1, a.x);
  k.lines = Int32Of(a.cache_indices, "cache_indices", k.sequences, a.x);
  Check(k.lines != nullptr || k.sequences <= a.conv_states.size(0), "conv_states has ",
        a.conv_states.size(0), " lines for ", k.sequences, " sequences");
  k.accepted = Int32Of(a.num_accepted_tokens, "num_accepted_tokens", k.sequences, a.x);
  if (a.has_initial_state) {
    const Tensor& has = *a.has_initial_state;
    Check(has.scalar_type() == ScalarType::Bool && has.dim() == 1 && has.size(0) == k.sequences &&
              (k.sequences <= 1 || has.stride(0) == 1) && OnDeviceOf(has, a.x),
          "has_initial_state must be a contiguous bool tensor of shape (", k.sequences,
          ") on the device of x, got ", accel::Shape{has});
    k.has_initial = static_cast<const uint8_t*>(has.const_data_ptr());
  }
  k.line_count = ToInt32(a.conv_states.size(0), "lines");
  k.columns = ToInt32(a.conv_states.size(2), "columns");
  k.pad_line = ToInt32(a.pad_slot_id, "pad_slot_id");
  const torch::stable::accelerator::DeviceGuard guard(a.x.get_device_index());
  Tensor out = EmptyLaidOut(a.x, 1, channels, tokens, true);
  if (channels == 0 || tokens == 0) return out;
  if (k.sequences == 0) return torch::stable::zero_(out);
  const int each = ChannelsFor(TapsFor(k.weights.width), a.x.element_size());
  k.x = ValuesOf(a.x, each);
  k.out = ValuesOf(out, each);
  k.before = k.after = ValuesOf(a.conv_states, each);
  LaunchPacked(&k, type, ThisDevice(), a.x, channels, tokens);
  return out;
}

std::string ThisBuild() {
  return BuildInfo(CAUSAL_CONV1D_VERSION, CAUSAL_CONV1D_ARCHS, CUDART_VERSION,
                   std::array<Feature, 0>{});
}

}  // namespace
}  // namespace accel::conv1d

STABLE_TORCH_LIBRARY(causal_conv1d, m) {
  using namespace accel::conv1d;
  using accel::Schema;
  m.def(Schema<Forward>("fwd", "(Tensor out, Tensor final_states)").c_str());
  m.def(Schema<Backward>("bwd", "(Tensor dx, Tensor dweight, Tensor dbias, Tensor dinitial_states)")
            .c_str());
  m.def(Schema<Update>("update", "Tensor").c_str());
  m.def(Schema<Packed>("packed", "Tensor").c_str());
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(causal_conv1d, CUDA, m) {
  using namespace accel::conv1d;
  using accel::Boxed;
  m.impl("fwd", &Boxed<Forward, &Fwd>);
  m.impl("bwd", &Boxed<Backward, &Bwd>);
  m.impl("update", &Boxed<Update, &UpdateStep>);
  m.impl("packed", &Boxed<Packed, &PackedStep>);
}

STABLE_TORCH_LIBRARY_IMPL(causal_conv1d, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&accel::conv1d::ThisBuild));
}
