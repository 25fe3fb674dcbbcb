/* hold.c: how a hold ends here. What the server is told of it is giveback.c's business. */
#include "lock/events.h"
#include "lock/lock.h"
#include "lock/together.h"

#include <sys/eventfd.h>

/* Whether the server has nothing to be given back. An external session may outlive our lease, and
 * the key with it. */
static bool is_over_there(const struct hf_session *session, enum hf_reason reason)
{
	switch (reason) {
	case HF_BY_SESSION:
	case HF_BY_KEY:
	case HF_BY_STOLEN:
		return true;
	case HF_BY_DEADLINE:
		return !session->external;
	default:
		return false;
	}
}

static void end_locked(struct hf_hold *hold, enum hf_reason reason)
{
	struct hf_lock *lock = hold->lock;
	struct hf_client *client = lock->client;
	struct hf_session *session = hold->session;
	bool released = reason == HF_BY_RELEASED;

	hf_link_remove(&hold->place);
	session->held--;
	if (session->external && !session->held && session->state == HF_SESSION_ALIVE)
		atomic_store(&session->deadline, HF_NEVER);
	lock->hold = NULL;
	lock->lost = !released;
	lock->reason = reason;
	hf_guard_break(&hold->guard, hf_reason_text(reason));
	if (lock->fd >= 0)
		eventfd_write(lock->fd, 1);
	client->stats.locks_held--;
	if (!released)
		client->stats.losses[reason]++;
	if (!released && reason != HF_BY_CLOSED)
		hf_events_hold_locked(hold, reason);
	/* The thread is there, or it would not be held. */
	hf_engine_post_locked(&client->engine, &hold->op);
	hf_op_unref(&hold->op); /* the lock's; the engine has one */
}

void hf_hold_end_locked(struct hf_hold *hold, enum hf_reason reason)
{
	struct hf_op *together = hold->together;
	bool one_key = reason == HF_BY_KEY || reason == HF_BY_STOLEN;
	struct hf_hold *mate;

	hold->lost |= is_over_there(hold->session, reason);
	if (!together) {
		end_locked(hold, reason);
		return;
	}
	hf_op_ref(together);
	for (size_t i = 0; (mate = hf_together_hold(together, i)); i++) {
		mate->lost |= !one_key && is_over_there(mate->session, reason);
		mate->together = NULL;
		hf_op_unref(together);
		end_locked(mate, reason);
	}
	hf_op_unref(together);
}

void hf_hold_lose(struct hf_hold *hold, enum hf_reason reason)
{
	struct hf_engine *engine = hold->op.engine;

	pthread_mutex_lock(&engine->mutex);
	if (hold->lock->hold == hold)
		hf_hold_end_locked(hold, reason);
	pthread_mutex_unlock(&engine->mutex);
}

static void set_timeout(struct hf_hold *hold, int64_t timeout)
{
	hold->once = timeout == 0;
	hold->op.deadline = hf_op_deadline(timeout);
}

struct hf_op *hf_hold_release_locked(struct hf_lock *lock, int64_t timeout)
{
	struct hf_hold *hold = lock->hold, *mate;
	struct hf_op *together = hold->together, *op = together ? together : &hold->op;

	hf_op_ref(op);
	set_timeout(hold, timeout);
	for (size_t i = 0; together && (mate = hf_together_hold(together, i)); i++)
		set_timeout(mate, timeout);
	hf_hold_end_locked(hold, HF_BY_RELEASED);
	if (together)
		hf_engine_post_locked(together->engine, together);
	return op;
}
