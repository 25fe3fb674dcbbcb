--- What the flags of a key say that it is used for, as Consul's 64-bit numbers in decimal text. Private.
-- @module holdfast.flags

return {
  LOCK = "3304740253564472344",       -- Go's api/lock.go, LockFlagValue: also what `consul lock` takes
  SEMAPHORE = "16210313421097356768", -- Go's api/semaphore.go, SemaphoreFlagValue
  TICKET = "114788930253425",         -- "hfairq": of who waits for a fair lock
  RWLOCK = "114789216382059",         -- "hfrwlk": of a read-write lock, and of those in line for it
}
