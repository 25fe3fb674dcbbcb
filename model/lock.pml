/*
 * The lock protocol: one key, two clients, and everything that a network, a stopped server
 * and an operator may do to them. `make model` runs it; model/run names the runs.
 *
 * WHAT IS PROVED, for runs of any length
 *   1. never two clients that believe they hold the key;
 *   2. the tokens of successive beliefs rise;
 *   3. nobody is left behind: a key held by a living session is always some client's business
 *      (process `left_behind`), and when everything has come to rest it is free (process `rest`).
 *
 * WHICH ABSTRACTION STANDS FOR WHAT
 *   Requests. What was sent may be carried out at any later time, any number of times, or never,
 *     also when its client has given up on it, gone on and done other things: a *set* of copies
 *     that carrying out does not empty. A server that stops and goes on, a proxy that repeats, a
 *     curl that sends again on a fresh connection: all are this. A client that still waits may
 *     hear the answer of any of the copies (so "refused" may be the answer of the second copy
 *     where the first was carried out), or none: it stops waiting whenever it likes.
 *   Dead copies. Indexes only rise, so a copy conditional on an index that the key has left can
 *     only be refused, and one of a session that has ended too. These are taken out of the set;
 *     what remains is conditional on the index of now (at_lock, at_unlock, at_fence) or on the
 *     absence of the key (no_lock).
 *   Reads are one step with what the client does about them. An answer that is acted on late is
 *     a request that arrives late, which is there already, and nobody believes because of a read.
 *     With -DSTALE a read may also be answered by a server that has stopped some time ago.
 *   Time. There are no ticks, only the one fact that matters: lease < lock-delay. The lease of a
 *     session is over at (last good renewal SENT + lock-delay), less a margin. The server cannot
 *     end the session before it has had that renewal, which is after it was sent, and whatever
 *     ends it, the lock-delay starts then. So lease over comes before delay over, and that is all
 *     that can be said of either: here a lease ends at any moment and a session at any moment,
 *     but the delay left by a session ends only when its lease has. A client that is told that
 *     its session has ended is a lease that ends early.
 *   Indexes. Only their order matters and a new one is above all others, so they are renumbered
 *     without gaps after each step (`shrink`). No run is cut off because a number grew.
 *   Sessions. Each client has two places, for a session that is retired and a fresh one. A place
 *     is used again when its session has ended on both sides, so their number has no bound.
 *     A session that the client destroys is one whose lease it gives up and that ends then;
 *     one whose lease is over is not renewed and ends by its TTL.
 *
 * LEFT OUT: deletion of a *held* key (locks are advisory: the believer is told by its audit, and
 *   until then two may believe; -DDELETE_HELD shows that the model sees it); a lock-delay of 0;
 *   indexes that go back (a restored snapshot); that the leader looks at the lock-delay a moment
 *   before it carries out the lock (what is conditional on an index cannot profit from it: the
 *   index moves when a delay begins).
 *
 * SWITCHES that take something away, so that the model is known to be able to fail
 *   NO_FENCE        lock and unlock are unconditional, as in the first edition
 *   NO_MAKING_SURE  who gives up just leaves
 *   TRUST_ANSWER    makes sure only if *no* answer came: takes "refused" for "no copy was
 *                   carried out nor will be", and "granted" for "there is no second copy"
 *   WATCH_ASIDE     what is found held by nobody is given back beside a new acquire of the same
 *                   key instead of in its turn
 *   TRUST_READS     with STALE: takes an answer older than what the client knows
 *   LONG_LEASE      a lease may outlast the lock-delay
 *   DELETE_HELD     see above
 * and that change something
 *   STALE           reads may be old
 *   CREATE_FIRST    an absent key is first created unlocked, then locked by its index
 *   NO_RETIRE       an unknown outcome does not retire the session
 *   ALWAYS_MOVE     who locks what its session has already moves the index (csrc/lock/acquire.c
 *                   does): then WATCH_ASIDE is safe, which is what csrc/lock/stray.c does
 *   SESSIONS=2, 3   one place for a session for each client; a second one for client 0
 *   ONLY=1, 3       looks for property 1 (and 2), or 3, alone
 */

#ifndef ONLY
#define ONLY 0
#endif

#ifndef SESSIONS
#define SESSIONS 4
#endif

#define NOBODY	0
#define RIPE	5			/* a lock-delay whose session's lease is over */
#define FIRST(c)	(2 * (c) + 1)	/* sessions 1 and 2 are client 0's, 3 and 4 client 1's */
#define SECOND(c)	(2 * (c) + 2)
#define OWNER(s)	(((s) - 1) / 2)
#define PLACE(s)	((s) == 1 || (s) == 3 || ((s) == 2 && SESSIONS >= 3) || ((s) == 4 && SESSIONS >= 4))

/* ---- the server ---------------------------------------------------------------------------- */

bool exists;
byte holder;				/* the session that holds the key, or NOBODY */
byte index = 1;				/* of the key; of its deletion if it does not exist */
byte delay;				/* the session whose end started the lock-delay, or RIPE, or 0 */
bool alive[5];				/* the session, as the server sees it */

/* Copies that may still be carried out: conditional on the index of now, or on no key. */
bool at_lock[5];
bool at_unlock[5];
bool at_fence[5];			/* [check-index, lock, unlock]: of whoever gives up */
bool no_lock[5];
bool no_create;				/* CREATE_FIRST: [check-not-exists, set] */

#ifdef STALE
bool old_exists;			/* the key as a server that stopped at some time sees it */
byte old_holder;
byte old_index = 1;
#endif

/* ---- the clients --------------------------------------------------------------------------- */

mtype = {
	IDLE,				/* no op on the key; may have to look after it (watch) */
	READ,				/* acquiring: about to read the key */
	LOCK,				/* acquiring: the lock is sent, no answer yet */
	GOT,				/* the server said yes; the caller does not know yet */
	HOLD,				/* believes */
	BACK,				/* giving back: the unlock is sent, repeated until answered */
	BACK_READ,			/* giving back: the index has moved, is the key still ours? */
	LEAVE,				/* gave up: about to make sure, by a read */
	FENCE				/* gave up: the fence is sent */
};

mtype phase[2] = IDLE;
byte ses[2];				/* the session of the op */
byte idx[2];				/* the index its last write is conditional on (0: no key); the token */
bool lease[5];				/* the session may be believed in */
bool retired[5];			/* no new acquire may use it */
bool watch[5];				/* a lock that wants no key may be under way: look until the session ends */

byte last;				/* the token of the last belief */
bool quiet;				/* no new acquires, losses, late copies, operators: see `rest` */

/* ---- scratch, 0 between steps -------------------------------------------------------------- */

bool done;
byte i;
bool r_exists;
byte r_holder;
byte r_index;

/* ---- the server's steps: all inside atomic ---------------------------------------------- */

#ifdef STALE
#define OLD_INDEX	old_index
#define FORGET_ONE	old_index--
#else
#define OLD_INDEX	0
#define FORGET_ONE	skip
#endif
#define IN_USE(x)	(idx[0] == (x) || idx[1] == (x) || last == (x) || OLD_INDEX == (x))

/* Closes the gaps in the numbers of indexes: only their order is a fact. The last token is
 * forgotten when every token still to come is above it: a grant answers the index of now. */
#define WAITS_BELOW(c, x)	(phase[c] == GOT && idx[c] <= (x))

inline shrink()
{
	d_step {
		done = 0; r_exists = 0; r_holder = 0; r_index = 0;
		if
		:: last < index && !WAITS_BELOW(0, last) && !WAITS_BELOW(1, last) -> last = 0
		:: else
		fi;
		i = 1;
		do
		:: i >= index -> break
		:: else ->
			if
			:: IN_USE(i) -> i++
			:: else ->
				index--;
				if :: idx[0] > i -> idx[0] = idx[0] - 1 :: else fi;
				if :: idx[1] > i -> idx[1] = idx[1] - 1 :: else fi;
				if :: last > i -> last-- :: else fi;
				if :: OLD_INDEX > i -> FORGET_ONE :: else fi
			fi
		od;
		i = 0
	}
}

/* The key is written: what was conditional on its index is dead. */
inline move()
{
	d_step {
		index++;
#ifndef NO_FENCE
		i = 1;
		do
		:: i <= 4 -> at_lock[i] = 0; at_unlock[i] = 0; at_fence[i] = 0; i++
		:: else -> break
		od;
		i = 0
#endif
	}
}

#ifdef NO_FENCE
#define INDEX_IS(x)	true
#define NO_KEY		true
#else
#define INDEX_IS(x)	(exists && index == (x))
#define NO_KEY		(!exists)
#endif

/* [check-index x, lock] or, with x 0, [check-not-exists, lock]. By the session that holds the
 * key already it changes nothing, or moves the index if an operator has changed the value; with
 * ALWAYS_MOVE it is [check-index x, unlock, lock] then, which moves it always. */
inline do_lock(s, x)
{
	if
	:: alive[s] && delay == 0 && (holder == NOBODY || holder == s) &&
	   ((x != 0 && INDEX_IS(x)) || (x == 0 && NO_KEY)) ->
		done = 1;
		if
#ifndef ALWAYS_MOVE
		:: holder == s
#endif
		:: true -> exists = 1; holder = s; move()
		fi
	:: else -> done = 0
	fi
}

/* [check-index x, unlock] */
inline do_unlock(s, x)
{
	if
	:: alive[s] && holder == s && INDEX_IS(x) -> done = 1; holder = NOBODY; move()
	:: else -> done = 0
	fi
}

/* [check-index x, lock, unlock] */
inline do_fence(s, x)
{
	if
	:: alive[s] && delay == 0 && (holder == NOBODY || holder == s) && INDEX_IS(x) ->
		done = 1; holder = NOBODY; move()
	:: else -> done = 0
	fi
}

/* GET of the key into r_*. An answer older than what the client knows says nothing. */
inline read(c)
{
	if
	:: r_exists = exists; r_holder = holder; r_index = index
#ifdef STALE
#ifdef TRUST_READS
	:: !quiet ->
#else
	:: !quiet && old_index >= idx[c] ->
#endif
		r_exists = old_exists; r_holder = old_holder; r_index = old_index
#endif
	fi
}

/* ---- the clients' steps -------------------------------------------------------------------- */

/* Sends: a copy that is dead already is not kept. */
inline send(copy, s, x)
{
	if
	:: alive[s] && !quiet && INDEX_IS(x) -> copy = 1
	:: else
	fi
}

inline send_lock(c)
{
	if
	:: r_exists -> idx[c] = r_index; send(at_lock[ses[c]], ses[c], idx[c])
	:: else ->
		idx[c] = 0;
		no_lock[ses[c]] = (alive[ses[c]] && !quiet);
#if !defined(TRUST_ANSWER) && !defined(NO_MAKING_SURE) && !defined(NO_FENCE)
		watch[ses[c]] = 1
#endif
	fi;
	phase[c] = LOCK
}

/* The key is, or may be, ours at the index x: gives that back. */
inline give_back(c, s, x)
{
	ses[c] = s;
	idx[c] = x;
	send(at_unlock[s], s, x);
	phase[c] = BACK
}

inline leave(c)
{
	phase[c] = IDLE;
	ses[c] = 0;
	idx[c] = 0
}

inline begin(c, s)
{
	phase[c] = READ;
	ses[c] = s;
	idx[c] = 0
}

inline make_session(s)
{
	alive[s] = 1;
	lease[s] = 1
}

#define FRESH(s)	(lease[s] && !retired[s])
#define UNUSED(s)	(PLACE(s) && !alive[s] && !lease[s] && delay != (s))
#define NONE_FRESH(c)	(!FRESH(FIRST(c)) && !FRESH(SECOND(c)))
#define FOUND(s)	(watch[s] && holder == (s))

/* The phases of an op, one after the other. A lease that ends puts the client back to IDLE from
 * any of them (process `session`), so no phase has to ask whether it is still good. */
proctype client(byte c)
{
end:	do
	/* IDLE: acquire with the fresh session, or with one made for it. */
	:: atomic { phase[c] == IDLE && !quiet && FRESH(FIRST(c)) -> begin(c, FIRST(c)) }
	:: atomic { phase[c] == IDLE && !quiet && FRESH(SECOND(c)) -> begin(c, SECOND(c)) }
	:: atomic { phase[c] == IDLE && !quiet && NONE_FRESH(c) && UNUSED(FIRST(c)) ->
		make_session(FIRST(c)); begin(c, FIRST(c)) }
	:: atomic { phase[c] == IDLE && !quiet && NONE_FRESH(c) && !UNUSED(FIRST(c)) && UNUSED(SECOND(c)) ->
		make_session(SECOND(c)); begin(c, SECOND(c)) }

	/* IDLE: looks after the key. What a late lock has taken is given back, in the key's turn:
	 * no acquire of this client runs beside it. */
#ifdef WATCH_ASIDE
	:: atomic { !quiet && phase[c] == IDLE && FOUND(FIRST(c)) -> send(at_unlock[FIRST(c)], FIRST(c), index) }
	:: atomic { !quiet && phase[c] == IDLE && FOUND(SECOND(c)) -> send(at_unlock[SECOND(c)], SECOND(c), index) }
#endif
	:: atomic { phase[c] == IDLE && FOUND(FIRST(c)) -> give_back(c, FIRST(c), index); shrink() }
	:: atomic { phase[c] == IDLE && FOUND(SECOND(c)) -> give_back(c, SECOND(c), index); shrink() }

	/* READ: somebody else's: waits. Free, absent or ours already (a copy was carried out of which
	 * we have not heard): locks at the index seen. */
	:: atomic { phase[c] == READ ->
		read(c);
		if
		:: r_holder == NOBODY || r_holder == ses[c] ->
#ifdef CREATE_FIRST
			if
			:: !r_exists ->
				no_create = !quiet;
				if
				:: quiet && !exists -> exists = 1; move()
				:: else
				fi
			:: else -> send_lock(c)
			fi
#else
			send_lock(c)
#endif
		:: else
		fi;
		shrink() }
	:: atomic { phase[c] == READ ->
#ifdef TRUST_ANSWER
		if
		:: watch[ses[c]] || retired[ses[c]] -> phase[c] = LEAVE
		:: else -> leave(c)
		fi;
#else
		phase[c] = LEAVE;
#endif
		shrink() }

	/* LOCK: the answer, */
	:: atomic { phase[c] == LOCK ->
		do_lock(ses[c], idx[c]);
		if
		:: done -> phase[c] = GOT; idx[c] = index
		:: else -> phase[c] = READ
		fi;
		shrink() }
	/* or none, or one that says nothing: the session is retired, the acquire goes on with it. */
	:: atomic { phase[c] == LOCK && !quiet ->
#if !defined(NO_RETIRE) && !defined(NO_FENCE)
		retired[ses[c]] = 1;
#endif
#ifdef TRUST_ANSWER
		if :: idx[c] == 0 -> watch[ses[c]] = 1 :: else fi;
#endif
		phase[c] = READ }

	/* GOT: the answer may be old, but the lease is not over. Or the caller has gone. */
	:: atomic { phase[c] == GOT ->
#if ONLY != 3
		assert(phase[1 - c] != HOLD);
		assert(idx[c] > last);
#endif
		phase[c] = HOLD;
		last = idx[c];
		shrink() }
	:: atomic { phase[c] == GOT -> give_back(c, ses[c], idx[c]) }

	/* HOLD: stops believing, then unlocks. */
	:: atomic { phase[c] == HOLD -> give_back(c, ses[c], idx[c]) }

	/* BACK: no answer needs no step, the copies are there: it is sent again. */
	:: atomic { phase[c] == BACK ->
		do_unlock(ses[c], idx[c]);
		if
		:: done -> leave(c)
		:: else -> phase[c] = BACK_READ
		fi;
		shrink() }
	/* BACK_READ: an operator has written if it is still ours; else it has been given back. */
	:: atomic { phase[c] == BACK_READ ->
		read(c);
		if
		:: r_holder == ses[c] -> give_back(c, ses[c], r_index)
		:: else -> leave(c)
		fi;
		shrink() }

	/* LEAVE: ours after all: gives it back. The index has moved, or the key is gone: what was
	 * conditional on the index is dead (what wants no key is watched). Else moves it. */
	:: atomic { phase[c] == LEAVE ->
#if defined(NO_MAKING_SURE) || defined(NO_FENCE)
		leave(c);
#else
		read(c);
		if
		:: r_holder == ses[c] -> give_back(c, ses[c], r_index)
		:: r_holder != ses[c] && r_exists && r_index == idx[c] ->
			send(at_fence[ses[c]], ses[c], idx[c]);
			phase[c] = FENCE
		:: r_holder != ses[c] && !(r_exists && r_index == idx[c]) -> leave(c)
		fi;
#endif
		shrink() }

	/* FENCE: refused (moved meanwhile, or a lock-delay) or no answer: looks again. */
	:: atomic { phase[c] == FENCE ->
		do_fence(ses[c], idx[c]);
		if
		:: done -> leave(c)
		:: else -> phase[c] = LEAVE
		fi;
		shrink() }
	:: atomic { phase[c] == FENCE && !quiet -> phase[c] = LEAVE }
	od
}

#ifdef LONG_LEASE
#define LONG	true
#else
#define LONG	false
#endif

/* ---- everything that happens to a session, and to its copies ------------------------------- */

proctype session(byte s)
{
end:	do
	/* A copy is carried out; nobody hears the answer. */
	:: atomic { at_lock[s] -> do_lock(s, index); shrink() }
	:: atomic { at_unlock[s] -> do_unlock(s, index); shrink() }
	:: atomic { at_fence[s] -> do_fence(s, index); shrink() }
	:: atomic { no_lock[s] -> do_lock(s, 0); shrink() }

	/* It ends, for any reason: what it held is free, the lock-delay begins. */
	:: atomic { alive[s] && (!quiet || !lease[s]) ->
		alive[s] = 0;
		at_lock[s] = 0; at_unlock[s] = 0; at_fence[s] = 0; no_lock[s] = 0;
		if
		:: holder == s ->
			holder = NOBODY;
			move();
			if
			:: lease[s] && !LONG -> delay = s
			:: else -> delay = RIPE
			fi
		:: else
		fi;
		shrink() }

	/* Its lease is over, or the client hears that it has ended, or has no more use for it. */
	:: atomic { lease[s] && (!quiet || !alive[s]) ->
		lease[s] = 0; retired[s] = 0; watch[s] = 0;
		if
		:: ses[OWNER(s)] == s -> leave(OWNER(s))
		:: else
		fi;
		if
		:: delay == s -> delay = RIPE
		:: else
		fi;
		shrink() }
	od
}

/* ---- the rest of the world ----------------------------------------------------------------- */

proctype world()
{
end:	do
	/* The lock-delay ends: after the lease of the session that left it. */
	:: atomic { delay == RIPE -> delay = 0 }
	/* An operator writes: the index moves, the holder stays. */
	:: atomic { !quiet -> exists = 1; move(); shrink() }
	/* An operator, or a destroy, deletes the key by cas while it is free. */
	:: atomic { !quiet && exists && holder == NOBODY -> exists = 0; move(); shrink() }
#ifdef DELETE_HELD
	:: atomic { !quiet && exists && holder != NOBODY -> exists = 0; holder = NOBODY; move(); shrink() }
#endif
#ifdef CREATE_FIRST
	:: atomic { no_create && !exists -> exists = 1; move(); shrink() }
#endif
#ifdef STALE
	/* One more server stops, and answers reads with what it has seen. */
	:: atomic { !quiet && old_index != index ->
		old_exists = exists; old_holder = holder; old_index = index; shrink() }
#endif
	/* All comes to rest: copies that have not been carried out by now never are. */
	:: atomic { !quiet ->
		quiet = 1;
		i = 1;
		do
		:: i <= 4 -> at_lock[i] = 0; at_unlock[i] = 0; at_fence[i] = 0; no_lock[i] = 0; i++
		:: i > 4 -> break
		od;
		i = 0;
		no_create = 0;
#ifdef STALE
		old_exists = 0; old_holder = 0; old_index = 1;
#endif
		shrink() }
	od
}

/* Property 3 at any time: a living session that its client still renews holds the key. Then that
 * client has an op on it under way (a belief is one), or looks after the key. */
#define MINDED(s)	(ses[OWNER(s)] == (s) || watch[s])

proctype left_behind()
{
end:	atomic { holder != NOBODY && alive[holder] && lease[holder] && !MINDED(holder) -> assert(false) }
}

/* Property 3 at the end: nothing can happen any more. */
proctype rest()
{
end:	atomic { timeout ->
		assert(phase[0] == IDLE && phase[1] == IDLE);
		assert(holder == NOBODY && delay == 0) }
}

init {
	atomic {
		run client(0); run client(1);
		run session(1); run session(2); run session(3); run session(4);
		run world();
#if ONLY != 1 && !defined(DELETE_HELD)
		run left_behind(); run rest()
#endif
	}
}
