// oneDNN's primitives for inference, the same for its 2.x and 3.x interfaces.
// A description is empty (false) where oneDNN has no such primitive.

#ifndef SERVER_INFERENCE_ONEDNN_H_
#define SERVER_INFERENCE_ONEDNN_H_

#include <cstdint>
#include <cstring>
#include <memory>

#include "dnnl.hpp"

namespace finetune::onednn {

using Dims = dnnl::memory::dims;
using Desc = dnnl::memory::desc;
using Convolution = dnnl::convolution_forward::primitive_desc;
using Pooling = dnnl::pooling_forward::primitive_desc;
using InnerProduct = dnnl::inner_product_forward::primitive_desc;

inline Desc Floats(const Dims& dims, dnnl::memory::format_tag format =
                                         dnnl::memory::format_tag::any) {
  return Desc(dims, dnnl::memory::data_type::f32, format);
}

inline Dims DimsOf(const Desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_dims();
#else
  return desc.dims();
#endif
}

// The caller gives the scratchpad.
inline dnnl::primitive_attr Attributes(const dnnl::post_ops& post_ops = {}) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_post_ops(post_ops);
  return attributes;
}

// Adds to what the output holds where `sum`, then cuts off below zero where
// `relu`.
inline dnnl::post_ops SumAndRelu(bool sum, bool relu) {
  dnnl::post_ops post_ops;
  if (sum) post_ops.append_sum(1);
  if (relu) {
#if DNNL_VERSION_MAJOR >= 3
    post_ops.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
#else
    post_ops.append_eltwise(1, dnnl::algorithm::eltwise_relu, 0, 0);
#endif
  }
  return post_ops;
}

// The implementation whose name holds `preferred`, else oneDNN's first.
inline Convolution MakeConvolution(const dnnl::engine& engine,
                                   dnnl::algorithm algorithm, const Desc& in,
                                   const Desc& weights, const Desc& bias,
                                   const Desc& out, int64_t stride,
                                   int64_t padding,
                                   const dnnl::primitive_attr& attributes,
                                   const char* preferred = "") {
  const Dims strides(2, stride), paddings(2, padding);
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  const Convolution first(engine, kKind, algorithm, in, weights, bias, out,
                          strides, paddings, paddings, attributes,
                          /*allow_empty=*/true);
#else
  // Lives as long as next_impl() is called: 2.x keeps only its address.
  std::unique_ptr<const dnnl::convolution_forward::desc> desc;
  try {
    desc = std::make_unique<const dnnl::convolution_forward::desc>(
        kKind, algorithm, in, weights, bias, out, strides, paddings, paddings);
  } catch (const dnnl::error&) {
    return {};  // 2.x refuses some algorithms already here.
  }
  const Convolution first(*desc, attributes, engine, /*allow_empty=*/true);
#endif
  if (!first) return {};
  Convolution other = first;
  do {
    if (std::strstr(other.impl_info_str(), preferred) != nullptr) return other;
  } while (other.next_impl());
  return first;
}

inline Pooling MakePooling(const dnnl::engine& engine,
                           dnnl::algorithm algorithm, const Desc& in,
                           const Desc& out, int64_t stride, int64_t kernel,
                           int64_t padding) {
  const Dims strides(2, stride), kernels(2, kernel), paddings(2, padding);
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  return Pooling(engine, kKind, algorithm, in, out, strides, kernels,
                 /*dilation=*/{0, 0}, paddings, paddings, Attributes());
#else
  return Pooling(
      {kKind, algorithm, in, out, strides, kernels, paddings, paddings},
      Attributes(), engine);
#endif
}

inline InnerProduct MakeInnerProduct(const dnnl::engine& engine, const Desc& in,
                                     const Desc& weights, const Desc& bias,
                                     const Desc& out) {
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  return InnerProduct(engine, kKind, in, weights, bias, out, Attributes());
#else
  return InnerProduct({kKind, in, weights, bias, out}, Attributes(), engine);
#endif
}

}  // namespace finetune::onednn

#endif  // SERVER_INFERENCE_ONEDNN_H_
