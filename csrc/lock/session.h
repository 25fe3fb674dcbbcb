/* session.h: a session in Consul that locks are held through, and its keeper: made when it is
 * needed, renewed in time, destroyed when nobody leans on it any more. */
#ifndef HF_SESSION_H
#define HF_SESSION_H

#include "lock/client.h"

enum hf_session_state { HF_SESSION_NEW, HF_SESSION_ALIVE, HF_SESSION_DEAD };

struct hf_session {
	struct hf_client *client; /* const; counted */
	struct hf_session_opts
		opts; /* const, but for an external one's ttl and lock_delay: thread */
	bool external; /* const: made elsewhere; never renewed nor destroyed by us */
	atomic_int refs;

	enum hf_session_state state; /* lock */
	enum hf_reason reason; /* lock: how it ended; HF_NO_REASON: not yet */
	char id[64]; /* lock until ALIVE, const afterwards */
	_Atomic int64_t deadline; /* written under the lock: the lease is over at this time */
	struct hf_link holds; /* lock: held through it */
	size_t held; /* lock */

	bool gone; /* thread: the server has said so */
	bool retired; /* thread: for nobody new; destroyed when it is no longer in use */
	bool kept; /* thread: by an object of the user's (handle.c), which is one of its users */
	size_t users; /* thread: ops that lean on it */
	int64_t ttl; /* thread: what the server made of it, ms */
	int64_t made_at; /* thread; 0: not yet */
	int64_t proved_at; /* thread: when what the lease counts from was sent */
	int64_t restarted_at; /* thread: when a renewal without an answer last made polls begin anew
			       */
	bool renewed; /* thread: once at least */
	bool unwatched; /* thread: somebody else sees its end as soon as a watch would */
	bool doubted; /* thread: somebody doubts that it exists, and nobody has asked since */
	const char *check; /* const: one of opts.service_checks, ours (alive.c). NULL: none */
	bool checked; /* thread: it has been registered */
	struct hf_op *alive; /* thread: passes it, until the keeper has ended. NULL: none */
	struct hf_op *keeper, *watch, *audit; /* thread; NULL when not running */
	struct hf_link attempts; /* thread: renewals in flight */
	struct hf_link made; /* thread: ops that wait for it to be made */
	struct hf_link confirmed; /* thread: ops that wait for a renewal's answer */
	struct hf_link ended; /* thread: ops that wait for its end at the server, or for trouble
			       with that */
	struct hf_link suspects; /* thread: keys it may come to hold unknown to anybody (stray.c) */
	size_t suspect_count; /* thread */
	struct hf_op *warden; /* thread: looks at them; NULL: not running */
	unsigned failures; /* thread: creates and destroys that failed so far */
	struct hf_error create_error; /* thread: why the last one did */
	bool create_final; /* thread: and it is of no use to try again */
	struct hf_link mine; /* thread: client->sessions */
};

/* thread: finds or makes the session that a lock asks for (own: one for itself; id: one made
 * elsewhere; neither: the shared one), counts the caller as a user and takes a reference for it
 * (hf_session_leave gives both back). NULL when memory is out. The caller looks at its state; while
 * it is NEW, ops park on session->made. */
struct hf_session *hf_session_for(struct hf_client *client, const struct hf_session_opts *own,
				  const char *id);
/* thread: counts one more user, with its reference. */
void hf_session_join(struct hf_session *session);
/* thread. NULL is fine. */
void hf_session_leave(struct hf_session *session);
/* thread: for nobody new from now on: it may hold what we do not know of, or has no more use. It
 * is destroyed when its users have left. */
void hf_session_retire(struct hf_session *session);
/* thread: whether anybody leans on it, or anything is held through it. */
bool hf_session_in_use(struct hf_session *session);
/* thread: to be called when a user or a hold of it is gone. */
void hf_session_settle(struct hf_session *session);
/* thread: the server has said that it is gone. Every lock held through it is lost. */
void hf_session_gone(struct hf_session *session);
/* thread: the same, for whatever reason; it may be there still, and is destroyed. */
void hf_session_lost(struct hf_session *session, enum hf_reason reason);
/* The end of it here: everything held through it is lost, for that reason; for the reason that it
 * has ended when it was released. */
void hf_session_expire_locked(struct hf_session *session, enum hf_reason reason);
/* thread: the object that has kept it does so no more, if it has. */
void hf_session_unkeep(struct hf_session *session);
/* thread: somebody saw a sign that it is gone: the server is asked. */
void hf_session_doubt(struct hf_session *session);
/* thread: somebody else's request, sent at a time, has shown that it exists: what the lease of an
 * external session counts from. */
void hf_session_proved(struct hf_session *session, int64_t sent);
/* Looks at the lease: when it is over, everything held through it is lost. Answers whether the
 * session can be relied on at this moment. */
bool hf_session_alive_locked(struct hf_session *session);
/* The same for who does not have the mutex: the state that this leaves it in, and whether it cannot
 * be relied on. */
enum hf_session_state hf_session_check(struct hf_session *session);
bool hf_session_over(struct hf_session *session);
/* Whether nothing can be held through it at the server any more, or will not be for long: for an
 * external session the end of our lease says nothing about that. */
bool hf_session_ended(struct hf_session *session);
/* How long its lease is, ms: nobody else has a key of it so long after the server has last shown
 * that it exists. */
int64_t hf_session_lease(const struct hf_session *session);
/* The shorter of what must not run out, ms: the lease here, the session there. */
int64_t hf_session_span(const struct hf_session *session);
/* thread: the server has shown, in the answer to a request sent at a time, that it exists: a new
 * lease. */
void hf_session_extend(struct hf_session *session, int64_t sent);
/* How often to ask after the session's holds, ms. */
int64_t hf_session_interval(const struct hf_session *session);
void hf_session_ref(struct hf_session *session);
void hf_session_unref(struct hf_session *session);
/* thread: takes it off the client's list. */
void hf_session_forget(struct hf_session *session);

#endif
