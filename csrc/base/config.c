#include "base/config.h"

#include "base/alloc.h"

/* Replaces a borrowed string by a copy. After a failure the rest becomes NULL, so that what is
 * there can be freed. */
static void own(const char **text, bool *ok)
{
	const char *src = *text;

	*text = *ok ? hf_strdup(src) : NULL;
	if (src && !*text)
		*ok = false;
}

static void own_list(struct hf_list *list, bool *ok)
{
	const char **src = list->items;

	list->items = NULL;
	if (!src || !*ok)
		return;
	list->items = hf_calloc(list->count + 1, sizeof *list->items);
	if (!list->items) {
		*ok = false;
		return;
	}
	for (size_t i = 0; i < list->count; i++) {
		list->items[i] = src[i];
		own(&list->items[i], ok);
	}
}

static void disown(const char **text)
{
	hf_free((void *)(uintptr_t)*text);
	*text = NULL;
}

static void disown_list(struct hf_list *list)
{
	for (size_t i = 0; list->items && i < list->count; i++)
		disown(&list->items[i]);
	hf_free(list->items);
	list->items = NULL;
}

static void own_session(struct hf_session_opts *opts, bool *ok)
{
	own(&opts->name, ok);
	own(&opts->behavior, ok);
	own(&opts->node, ok);
	own_list(&opts->checks, ok);
	own_list(&opts->service_checks, ok);
}

bool hf_session_opts_copy(struct hf_session_opts *dst, const struct hf_session_opts *src)
{
	bool ok = true;

	*dst = *src;
	own_session(dst, &ok);
	if (!ok)
		hf_session_opts_free(dst);
	return ok;
}

void hf_session_opts_free(struct hf_session_opts *opts)
{
	disown(&opts->name);
	disown(&opts->behavior);
	disown(&opts->node);
	disown_list(&opts->checks);
	disown_list(&opts->service_checks);
}

#define EACH_TEXT_OF_ROUTE(route, verb, ...) \
	(verb(&(route)->unix_socket, ##__VA_ARGS__), verb(&(route)->connect_to, ##__VA_ARGS__), \
	 verb(&(route)->ca_file, ##__VA_ARGS__), verb(&(route)->ca_path, ##__VA_ARGS__), \
	 verb(&(route)->cert_file, ##__VA_ARGS__), verb(&(route)->key_file, ##__VA_ARGS__))

bool hf_route_copy(struct hf_route *dst, const struct hf_route *src)
{
	bool ok = true;

	*dst = *src;
	EACH_TEXT_OF_ROUTE(dst, own, &ok);
	if (!ok)
		hf_route_free(dst);
	return ok;
}

void hf_route_free(struct hf_route *route)
{
	EACH_TEXT_OF_ROUTE(route, disown);
}

#define EACH_TEXT(opts, verb, ...) \
	(verb(&(opts)->base, ##__VA_ARGS__), verb(&(opts)->token, ##__VA_ARGS__), \
	 verb(&(opts)->token_file, ##__VA_ARGS__), verb(&(opts)->auth, ##__VA_ARGS__), \
	 verb(&(opts)->datacenter, ##__VA_ARGS__), verb(&(opts)->ns, ##__VA_ARGS__), \
	 verb(&(opts)->partition, ##__VA_ARGS__))

bool hf_client_opts_copy(struct hf_client_opts *dst, const struct hf_client_opts *src)
{
	bool ok = true;

	*dst = *src;
	EACH_TEXT(dst, own, &ok);
	EACH_TEXT_OF_ROUTE(&dst->route, own, &ok);
	own_session(&dst->session, &ok);
	if (!ok)
		hf_client_opts_free(dst);
	return ok;
}

void hf_client_opts_free(struct hf_client_opts *opts)
{
	EACH_TEXT(opts, disown);
	hf_route_free(&opts->route);
	hf_session_opts_free(&opts->session);
}

bool hf_call_copy(struct hf_call *dst, const struct hf_call *src)
{
	bool ok = true;

	*dst = *src;
	own(&dst->method, &ok);
	own(&dst->path, &ok);
	own_list(&dst->query, &ok);
	own_list(&dst->headers, &ok);
	dst->body = ok && src->body ? hf_memdup(src->body, src->body_len) : NULL;
	if (src->body && !dst->body)
		ok = false;
	if (!ok)
		hf_call_free(dst);
	return ok;
}

void hf_call_free(struct hf_call *call)
{
	disown(&call->method);
	disown(&call->path);
	disown_list(&call->query);
	disown_list(&call->headers);
	disown(&call->body);
}
