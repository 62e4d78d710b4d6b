// Package engine keeps the tokens of one store fresh. For each connection in use it has a
// [Refresher], which serves a valid token from memory, and refreshes it in at most one
// flight at a time. It owns every goroutine of the broker, the store and the journal. What
// an application may ask for is above it, in package broker.
//
// # The shape of a refresh
//
//	start -> flight             one per connection, when its budget allows   flight.go
//	  |
//	attempt.run -> once         again if the record has changed              flight.go
//	  |
//	  +- acquire -> heldLease   or adopts a token that is fresh already      lease.go
//	  +- redeem                 tokenendpoint.Send: one request              redeem.go
//	  |
//	  +- saveToken              a token arrived                              settle.go
//	  |    +- journalIfSlow     while the store takes long                   flush.go
//	  |    +- saveLater         the store does not take it: a pendingAnswer  settle.go, backlog.go
//	  |         +- keep, flush  is journaled and served from memory          flush.go
//	  |
//	  +- saveFailure            no token: retry, park or pause               settle.go, refusal.go
//	  |
//	  +- settle -> install      both save, end the lease, and serve          settle.go, snapshot.go
//	  +- emit                   to the log and the EventSink                 events.go
//	  |
//	land, planRetry             release the waiting callers                  flight.go
//
// Besides these: serve.go decides whether a caller gets the token at hand or waits,
// renew.go handles 401s of downstream, refresher.go and snapshot.go hold what is in memory,
// wait.go judges the waits of records,
// storage.go and tombstone.go work on the store by compare-and-set, sweep.go is what package
// sweep gets of the engine, announcement.go tells operators once of a refused client.
//
// # Clocks
//
// The time of day can be wrong, and can be set, on any replica at any moment. So no time in a
// record holds anything up for longer than the rule that wrote it allows: records store what
// was decided, a duration, and each process judges it by its own monotonic clock as well (a
// [clock.Instant]). What is only in memory is measured in instants alone.
//
//	time                           written                judged
//	Cycle.RetryAt, Wait            at a failed refresh    over when the wall clock says so, or when this
//	                                                      process has known the wait for its whole duration
//	Cycle.GiveUpAt, RefusedSince   at the first failure   moved at each failure by what a clock was set
//	                                                      since the last: record.Cycle.rebase
//	Cycle.FailedAt, parked         at a failed refresh    validate: only within its interval of 30 s, in
//	                                                      either direction
//	Cycle.CredentialsExpireAt      when parked            two looks of one process minutes apart, or its
//	Deleted, of a tombstone        at the deletion        own watch of the whole time: the sweep
//	Credentials.Expiry             at each token          over when the wall clock says so, or when this
//	                                                      process has known the token for its lifetime
//	Credentials.IssuedAt           at each token          keep_alive: from three quarters of it, the rest
//	                                                      is reserve; imports: earlier tokens are kept out
//	                                                      only while the connection is not parked
//	Credentials.RefreshExpiry      at each token          keep_alive, as IssuedAt; never ends anything
//	Lease.Duration                 a duration             instants: the same id for the whole duration
//	CreatedAt                      at the first import    only its order: a record that was created later
//	                                                      is not an older state of the same
//	announcement, of a pause       when announced         again after a day; a time in the future is within it
//	                                                      for a day at most
//	Retry-After                    by a server            a date counts from the response's Date, if any
//	cache_ttl, cooldowns, forced   in memory              instants
//	refreshes, breakers, budgets
package engine
