// Arrays that come from Python, checked: which type, shape and memory. Every complaint is a
// ValueError that names the argument; kernels/indexing.py has those of its part. To be included by
// the three .cpp files.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "record.h"

namespace nb = nanobind;
using nb::handle;

namespace {

using Output = nb::ndarray<>;       // an array to write to
using Input = nb::ndarray<nb::ro>;  // an array to read
using Shape = std::vector<int64_t>;
using DType = nb::dlpack::dtype;

constexpr DType kBool = nb::dtype<bool>();
constexpr DType kInt64 = nb::dtype<int64_t>();
constexpr DType kFloat32 = nb::dtype<float>();
constexpr DType kFloat64 = nb::dtype<double>();

// Arrays of float32 by their addresses.
inline std::vector<float*> ArraysAt(nb::sequence addresses) {
  std::vector<float*> arrays;
  for (handle address : addresses) {
    arrays.push_back(reinterpret_cast<float*>(nb::cast<uintptr_t>(address)));
  }
  return arrays;
}

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw nb::value_error(message.str().c_str());
}

std::string Describe(DType dtype, const Shape& shape) {
  const char* const kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  std::string text = dtype.code < 7 ? kinds[dtype.code] : "opaque";
  if (dtype != kBool) text += std::to_string(dtype.bits);
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : " [") + std::to_string(shape[i]);
  return text + (shape.empty() ? " []" : "]");
}

template <typename Array>
Shape ShapeOf(const Array& array) {
  return Shape(array.shape_ptr(), array.shape_ptr() + array.ndim());
}

// What keeps the array from being one block of this machine's memory, or "".
template <typename Array>
const char* Complaint(const Array& array) {
  // Pinned memory calls itself a device of its own, but it is the CPU's.
  const int device = array.device_type();
  if (device != nb::device::cpu::value && device != nb::device::cuda_host::value) {
    return ", not on the CPU";
  }
  int64_t stride = 1;
  for (size_t i = array.ndim(); i-- > 0 && array.size() > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != stride) return ", not contiguous";
    stride *= array.shape_ptr()[i];
  }
  return "";
}

template <typename Array>
Array Import(handle object, const std::string& name) {
  Array array;
  if (!nb::try_cast(object, array, false) || !array.is_valid()) {
    Refuse(name, ": expected an array in plain memory, got ",
           nb::str(object.type().attr("__name__")).c_str());
  }
  return array;
}

template <typename Array>
void Require(const Array& array, const std::string& name, DType dtype, const Shape& shape) {
  bool same = array.ndim() == shape.size() && array.dtype() == dtype;
  for (size_t i = 0; same && i < shape.size(); ++i) same = array.shape_ptr()[i] == shape[i];
  const char* complaint = Complaint(array);
  if (same && *complaint == '\0') return;
  Refuse(name, ": expected contiguous ", Describe(dtype, shape), " on the CPU, got ",
         Describe(array.dtype(), ShapeOf(array)), complaint);
}

template <typename Array>
Array ImportAs(handle object, const std::string& name, DType dtype, const Shape& shape) {
  Array array = Import<Array>(object, name);
  Require(array, name, dtype, shape);
  return array;
}

// For the argument that sets the sizes of the others: they are free, but not 0.
template <typename Array>
Array ImportFirst(handle object, const std::string& name, DType dtype, size_t num_dims,
                  const char* letters) {
  Array array = Import<Array>(object, name);
  if (array.ndim() != num_dims || array.size() == 0) {
    Refuse(name, ": expected shape ", letters, " without zeros, got ",
           Describe(array.dtype(), ShapeOf(array)));
  }
  Require(array, name, dtype, ShapeOf(array));
  return array;
}

template <typename Scalar, typename Array>
Scalar* Data(const Array& array) {
  return static_cast<Scalar*>(array.data());
}

// A fresh torch tensor, not yet filled.
template <typename Scalar>
nb::ndarray<nb::pytorch, Scalar> NewTensor(size_t count, std::initializer_list<size_t> shape) {
  auto* values = new Scalar[count];
  nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<Scalar*>(p); });
  return nb::ndarray<nb::pytorch, Scalar>(values, shape, owner);
}

[[maybe_unused]] uint64_t ImportSeed(handle seed) {
  const nb::object integer = nb::steal(PyNumber_Index(seed.ptr()));
  if (!integer.is_valid()) throw nb::python_error();
  const uint64_t value = PyLong_AsUnsignedLongLong(integer.ptr());
  if (!PyErr_Occurred()) return value;
  PyErr_Clear();
  Refuse("seed: expected an integer in [0, 2**64), got ", nb::str(integer).c_str());
}

// The memory of floats that stays with its tensor.
[[maybe_unused]] float* Floats(handle object, const char* name, int64_t rows, int64_t columns) {
  return Data<float>(ImportAs<Output>(object, name, kFloat32, {rows, columns}));
}

[[maybe_unused]] fastrl::ObsKind KindOf(const Output& obs) {
  const DType dtype = obs.dtype();
  if (dtype == kFloat32) return fastrl::ObsKind::kFloat32;
  if (dtype == kFloat64) return fastrl::ObsKind::kFloat64;
  if (dtype == nb::dtype<uint8_t>() || dtype == nb::dtype<int32_t>() || dtype == kInt64) {
    return fastrl::ObsKind::kInteger;
  }
  Refuse("obs: expected float32, float64, uint8, int32 or int64, got ",
         Describe(dtype, ShapeOf(obs)));
}

}  // namespace
