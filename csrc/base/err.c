#include "hf.h"

#include <stdarg.h>
#include <stdio.h>

const char *hf_err_code(enum hf_err code)
{
	switch (code) {
	case HF_OK:
		return "OK";
#define HF_CASE(name, text) \
	case HF_##name: \
		return #name;
		HF_ERRORS(HF_CASE)
#undef HF_CASE
	}
	return "PROTOCOL";
}

const char *hf_err_text(enum hf_err code)
{
	switch (code) {
	case HF_OK:
		return "ok";
#define HF_CASE(name, text) \
	case HF_##name: \
		return text;
		HF_ERRORS(HF_CASE)
#undef HF_CASE
	}
	return "unknown error";
}

const char *hf_event_text(enum hf_event_kind kind)
{
	switch (kind) {
#define HF_CASE(name, text) \
	case HF_##name: \
		return text;
		HF_EVENTS(HF_CASE)
#undef HF_CASE
	}
	return "";
}

const char *hf_reason_text(enum hf_reason reason)
{
	switch (reason) {
#define HF_CASE(name, text) \
	case HF_BY_##name: \
		return text;
		HF_REASONS(HF_CASE)
#undef HF_CASE
	case HF_NO_REASON:
	case HF_REASON_COUNT:
		break;
	}
	return "";
}

enum hf_err hf_err_set(struct hf_error *err, enum hf_err code, const char *format, ...)
{
	va_list args;

	if (!err)
		return code;
	err->code = code;
	va_start(args, format);
	vsnprintf(err->message, sizeof err->message, format, args);
	va_end(args);
	return code;
}
