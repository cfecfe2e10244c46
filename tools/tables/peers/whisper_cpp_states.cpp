// whisper.cpp with what its public interface keeps back: the output of its encoder.

#include "whisper.cpp"

extern "C" {

// On the CPU. Returns null if the file cannot be loaded.
whisper_context * states_open(const char * path, bool flash_attention) {
    whisper_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    whisper_context_params params = whisper_context_default_params();
    params.use_gpu = false;
    params.flash_attn = flash_attention;
    return whisper_init_from_file_with_params(path, params);
}

// After whisper_encode: n_audio_ctx rows of n_audio_state values.
void states_get(whisper_context * context, float * states) {
    const ggml_tensor * tensor = context->state->embd_enc;
    ggml_backend_tensor_get(tensor, states, 0, ggml_nbytes(tensor));
}

}
