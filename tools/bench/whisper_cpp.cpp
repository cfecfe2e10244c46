// whisper.cpp for the benchmark: its public interface without structures passed by value.

#include <algorithm>
#include <cstdio>
#include <string>

#include "whisper.h"

extern "C" {

// On the CPU. Returns null if the file cannot be loaded.
whisper_context * bench_open(const char * path) {
    whisper_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    whisper_context_params params = whisper_context_default_params();
    params.use_gpu = false;
    return whisper_init_from_file_with_params(path, params);
}

// Greedy decoding of one encoded window from a prompt, without rules: what the network costs.
// Returns 0, or the failing call's status.
int bench_decode(whisper_context * context, const int * prompt, int n_prompt, int * tokens,
                 int n_tokens, int n_threads) {
    const int n_vocab = whisper_n_vocab(context);
    const int * fed = prompt;
    int n_fed = n_prompt;
    int position = 0;
    for (int i = 0; i < n_tokens; i++) {
        if (const int status = whisper_decode(context, fed, n_fed, position, n_threads)) {
            return status;
        }
        // A row for each token fed, of which only the last is computed.
        const float * logits = whisper_get_logits(context) + (n_fed - 1) * n_vocab;
        tokens[i] = std::max_element(logits, logits + n_vocab) - logits;
        position += n_fed;
        fed = tokens + i;
        n_fed = 1;
    }
    return 0;
}

// Transcribe samples, n_tokens for each window, or without samples the mel frames that are set.
// Returns the number of tokens found, of which at most n_written are written, or a negative status.
int bench_full(whisper_context * context, const float * samples, int n_samples, int beam_size,
               int n_tokens, int * tokens, int n_written, int n_threads) {
    whisper_full_params params = whisper_full_default_params(
        beam_size > 1 ? WHISPER_SAMPLING_BEAM_SEARCH : WHISPER_SAMPLING_GREEDY);
    params.beam_search.beam_size = beam_size;
    params.n_threads = n_threads;
    params.language = "en"; // as LANGUAGE in runtime.py
    params.no_context = true;
    params.no_timestamps = true;
    params.single_segment = true;
    params.max_tokens = n_tokens - 1; // it stops one token later
    params.print_progress = false;
    params.suppress_blank = false;
    params.temperature_inc = 0.0f; // one attempt
    params.no_speech_thold = 2.0f; // no window is left out
    whisper_reset_timings(context);
    if (const int status = whisper_full(context, params, samples, n_samples)) {
        return status < 0 ? status : -status;
    }
    int found = 0;
    for (int segment = 0; segment < whisper_full_n_segments(context); segment++) {
        for (int i = 0; i < whisper_full_n_tokens(context, segment); i++, found++) {
            if (found < n_written) {
                tokens[found] = whisper_full_get_token_id(context, segment, i);
            }
        }
    }
    return found;
}

// Transcribe samples greedily, everything else by default. Writes the text, cut to n_text bytes with
// the zero at its end. Returns 0, or the failing call's status.
int bench_transcribe(whisper_context * context, const float * samples, int n_samples,
                     const char * language, bool fallback, char * text, int n_text,
                     int n_threads) {
    whisper_full_params params = whisper_full_default_params(WHISPER_SAMPLING_GREEDY);
    params.n_threads = n_threads;
    params.language = language;
    params.no_context = true;
    params.print_progress = false;
    if (!fallback) {
        params.temperature_inc = 0.0f;
    }
    if (const int status = whisper_full(context, params, samples, n_samples)) {
        return status;
    }
    std::string found;
    for (int segment = 0; segment < whisper_full_n_segments(context); segment++) {
        found += whisper_full_get_segment_text(context, segment);
    }
    std::snprintf(text, n_text, "%s", found.c_str());
    return 0;
}

// Milliseconds that the encoder took in the last call of bench_full, by whisper.cpp's own clock.
float bench_encoder_ms(whisper_context * context) {
    return whisper_get_timings(context)->encode_ms;
}

}
