// Package engine keeps the tokens of one store fresh. For each connection in use it has a
// [Refresher], which serves a valid token from memory, and refreshes it in at most one
// flight at a time. It owns every goroutine of the broker, the store and the journal. What
// an application may ask for is above it, in package broker.
//
// # The shape of a refresh
//
//	start -> flight             one per connection                           flight.go
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
// storage.go and tombstone.go work on the store by compare-and-set, sweep.go is what package
// sweep gets of the engine, announcement.go tells operators once of a refused client.
package engine
