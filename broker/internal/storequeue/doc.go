// Package storequeue stands between the engine and a store. It bounds the requests that are
// at the store at a time, and decides which of the waiting requests begins next. A slow store
// then does as much useful work as a fast one: the requests wait here, where they can be
// reordered or withdrawn, and not at the store, which works off what it was sent.
//
// The bound follows the latency that is seen: see [bound]. Waiting requests are ordered by
// [Class]. A refresh that has begun comes before one that has not, so there are never more
// refreshes in progress than the store can finish. A request whose context ends while it
// waits is not begun. A request that was begun keeps its place until the store has answered,
// even if its caller has left: the store is still working on it.
//
// # How requests are counted
//
// One Load, Save, Delete or DestroyEarlier counts as one request, and so does the List of
// one consumer. A refresh is one Load and two Saves. Check is not counted: readiness must be
// known of an overloaded store too. Nor is the List of everything, of which the sweep does
// one at a time, between its Loads.
package storequeue
