/* process.h: what there is once per process, however many engines and Lua states: libcurl's
 * initialization, the registry of threads, and what happens at exit and at fork. */
#ifndef HF_PROCESS_H
#define HF_PROCESS_H

#include "hf.h"

struct hf_engine;
struct hf_thread;

/* Does what a process needs once: libcurl, atexit, atfork. */
bool hf_process_init(void);
/* Counts the forks between the first process and this one. */
unsigned long hf_process_generation(void);
/* Starts the thread of an engine, with all signals blocked. NULL when none can be had, or when
 * the process is ending. The engine's mutex may be held: the registry's own is a leaf. */
struct hf_thread *hf_process_start(struct hf_engine *engine);
/* Answers whether the caller is the one to join a thread. Like start, with the mutex held. */
bool hf_process_claim(struct hf_thread *thread);
/* Waits for a claimed thread to end and frees it. */
void hf_process_join(struct hf_thread *thread);
/* Joins threads that have ended and that nobody waits for. */
void hf_process_reap(void);
/* Runs fn in a thread that nobody joins, with all signals blocked. */
bool hf_process_detach(void *(*fn)(void *), void *arg);
/* Waits until the thread of an engine has ended, if it has one, or until a time (hf_now). */
void hf_process_await(struct hf_engine *engine, int64_t until);
/* Comes back when nobody holds the registry. */
void hf_process_try(void);
enum hf_object { HF_CLIENTS, HF_LOCKS, HF_OPS, HF_SESSIONS, HF_THREADS, HF_OBJECTS };
/* Counts objects alive, for hf_counters. */
void hf_process_count(enum hf_object object, int change);

#endif
