#include "net/trouble.h"

#include <string.h>

/* TLS 1.3 has the client begin before the server has looked at its certificate. What a server
 * thinks of that comes in place of the answer. */
static bool is_alert(const struct hf_http *http, CURLcode result)
{
	return (result == CURLE_RECV_ERROR || result == CURLE_SEND_ERROR) &&
	       strstr(http->detail, " alert ") != NULL;
}

static enum hf_err code_of(CURLcode result)
{
	switch (result) {
	case CURLE_OK:
		return HF_OK;
	case CURLE_OUT_OF_MEMORY:
	case CURLE_FAILED_INIT:
		return HF_NOMEM;
	case CURLE_OPERATION_TIMEDOUT:
		return HF_TIMEOUT;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_URL_MALFORMAT:
	case CURLE_BAD_FUNCTION_ARGUMENT:
		return HF_INVALID;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
		return HF_TLS;
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_WRITE_ERROR:
	case CURLE_BAD_CONTENT_ENCODING:
		return HF_PROTOCOL;
	default:
		return HF_CONNECT;
	}
}

enum hf_err hf_trouble_code(const struct hf_http *http, CURLcode result)
{
	if (is_alert(http, result))
		return HF_TLS;
	/* A reply that is not HTTP looks like HTTP/0.9, and that is what libcurl says. */
	if (result == CURLE_UNSUPPORTED_PROTOCOL && http->sendings)
		return HF_PROTOCOL;
	return code_of(result);
}
