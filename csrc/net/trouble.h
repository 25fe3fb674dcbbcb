/* trouble.h: what a failure means that libcurl tells of. */
#ifndef HF_TROUBLE_H
#define HF_TROUBLE_H

#include "net/http.h"

/* The code for what came of a transfer; HF_OK: there is a reply. */
enum hf_err hf_trouble_code(const struct hf_http *http, CURLcode result);

#endif
