// File: op_arguments.h
//
// An op's arguments, said once: a struct whose members read themselves, in order, and whose reading
// without a call is the op's schema.
//
//   struct ScaleArguments {
//     OpArguments& in;
//     Tensor x = in.GetTensor("x");
//     double alpha = in.GetFloat("alpha");
//   };
//   Tensor Scale(const ScaleArguments& a);
//
//   m.def(accel::Schema<ScaleArguments>("scale", "Tensor").c_str());  // scale(Tensor x, float
//   alpha) m.impl("scale", &accel::Boxed<ScaleArguments, &Scale>);
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace accel {

class OpArguments {
 public:
  using Tensor = torch::stable::Tensor;

  // Those of a call: a stack from PyTorch, whose tensors the reader owns.
  explicit OpArguments(StableIValue* stack) : next_(stack) {}
  // Those of no call, for the schema.
  OpArguments() = default;

  Tensor GetTensor(const char* name) { return Next<Tensor>("Tensor ", name); }
  // One that the op writes to.
  Tensor GetWritten(const char* name) {
    return Next<Tensor>(std::string("Tensor(") + written_++ + "!) ", name);
  }
  std::optional<Tensor> GetMaybeTensor(const char* name) {
    return Next<std::optional<Tensor>>("Tensor? ", name);
  }
  int64_t GetInt(const char* name) { return Next<int64_t>("int ", name); }
  int64_t GetSymInt(const char* name) { return Next<int64_t>("SymInt ", name); }
  double GetFloat(const char* name) { return Next<double>("float ", name); }
  bool GetBool(const char* name) { return Next<bool>("bool ", name); }

  // "Tensor x, float alpha"
  const std::string& declarations() const { return declarations_; }

 private:
  template <class T>
  T Next(const std::string& type, const char* name) {
    if (next_ != nullptr) return torch::stable::detail::to<T>(*next_++);
    declarations_ += std::string(declarations_.empty() ? "" : ", ") + type + name;
    return T();
  }

  StableIValue* next_ = nullptr;
  char written_ = 'a';
  std::string declarations_;
};

// "scale(Tensor x, float alpha) -> Tensor"
template <class Arguments>
std::string Schema(const char* name, const char* returns) {
  OpArguments in;
  [[maybe_unused]] const Arguments none{in};
  return std::string(name) + "(" + in.declarations() + ") -> " + returns;
}

inline void Return(StableIValue* stack, const torch::stable::Tensor& value) {
  stack[0] = torch::stable::detail::from(value);
}

template <class... Values>
void Return(StableIValue* stack, const std::tuple<Values...>& values) {
  torch::stable::detail::box_from_tuple<Values...>(stack, values);
}

// kFunction as StableLibrary::impl takes it.
template <class Arguments, auto kFunction>
void Boxed(StableIValue* stack, uint64_t /*inputs*/, uint64_t /*outputs*/) {
  OpArguments in(stack);
  const Arguments arguments{in};
  if constexpr (std::is_void_v<decltype(kFunction(arguments))>) {
    kFunction(arguments);
  } else {
    Return(stack, kFunction(arguments));
  }
}

}  // namespace accel
