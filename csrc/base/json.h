/* json.h: reads JSON. The only file that uses cJSON.
 *
 * cJSON keeps numbers as doubles, which cannot hold Consul's 64-bit flags. So integers of more
 * than 15 digits are quoted before parsing, and hf_json_u64 reads both forms exactly. */
#ifndef HF_JSON_H
#define HF_JSON_H

#include "hf.h"

/* Each takes NULL for "not there" and answers NULL (or 0, false) when it is not what is asked. */
const struct cJSON *hf_json_item(const struct cJSON *array, size_t index);
const struct cJSON *hf_json_field(const struct cJSON *object, const char *name);
/* The first member of an array or object; the others are next to it (hf_json_next). */
const struct cJSON *hf_json_members(const struct cJSON *of);
bool hf_json_is_array(const struct cJSON *json);
const char *hf_json_text(const struct cJSON *json);
bool hf_json_u64(const struct cJSON *json, uint64_t *out);

#endif
