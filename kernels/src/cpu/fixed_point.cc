// The kernels of fixed-point numbers for one instruction set: products, quantisation and what works
// element by element. All of it is exact or rounds as whisper_npu/ops does, whatever the order: no
// fused multiply-add but where the product is exact (-ffp-contract=off).
#include "fixed_elements.h"
#include "fixed_rows.h"
#include "products.h"
#include "variant.h"

#if defined(__AMX_INT8__)
#include "product_tiles.h"
#define PRODUCTS(Value) {product_columns<Value>, tiled_panels<Value>, tiled_scratch}
#elif HAS_VECTORS
#define PRODUCTS(Value) {product_columns<Value>, product_panels<Value>, product_scratch<Value>}
#else
#define PRODUCTS(Value) {product_columns<Value>, nullptr, nullptr}
#endif

extern const FixedKernels JOIN(fixed_, VARIANT) = {
    quantize_int32_rows, rms_norm_rows, gelu_int32_elements, add_int32_elements,
    embed_int32_rows, store_int16_rows, quantize_columns_heads, logits_float_elements,
    PRODUCTS(int8_t), PRODUCTS(int16_t)};
