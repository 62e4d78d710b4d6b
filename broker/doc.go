// Package broker keeps the API credentials of an application's customers, so that the
// application does not have to. It imports connections that were authorised elsewhere,
// stores their secrets, keeps their OAuth tokens fresh, and puts a valid credential into
// each request to a third-party service. The application never sees the credential.
//
// # Words
//
// An application calls the broker. Its customers are consumers. A [record.Connector] is one
// third-party service under a unified API, "crm/hubspot". A connection is a consumer's
// account at a connector: a [record.Key] names it, and a [record.Record] holds its
// credentials, settings, metadata and refresh status. Downstream is the API that a request
// goes to. A grant is what the consumer gave the application at the provider; it lives on in
// the refresh token. A refresh obtains a new access token. To redeem a refresh token is to
// send it to the token endpoint, which spends it. The generation of a record counts the
// credentials that it has had. A connection whose grant is gone is parked; a connector whose
// OAuth client is refused is paused.
//
// # The life of a connection
//
// [Broker.Import] creates a connection, or updates it without ever replacing credentials by
// older ones, and starts a refresh if the token may have expired. Tokens are refreshed ahead
// of their expiry, while the old ones are still served; callers wait only when there is no
// valid token. If the grant allows it (client credentials, password), tokens are fetched in
// the same way, an import brings only settings, and [Broker.ObtainToken] fetches a token at
// once. A [record.EventSink] is told of failed refreshes and recoveries.
//
// [Broker.Connections] lists the connections that a consumer has and could have,
// [Broker.Connection] shows one, [Broker.Validate] finds out whether its credentials work,
// and [Broker.Update] changes its settings and metadata, and disables it. [Broker.Delete]
// leaves a tombstone, and revokes the grant if the provider has an endpoint for that
// (RFC 7009).
//
// # A request to downstream
//
// [Broker.Admit] counts the request against the [record.Limits] until it is released;
// [Broker.AdmitCall] does so for a request that names its URL itself, and perhaps not the
// whole connection. [Admission.Authorize] puts the credential in, as the
// [connector.Definition] says, if the connector allows the host.
// [Authorization.HandleResponse] scrubs the response. After a 401, [Authorization.Renew]
// says whether a newer token is worth another try.
//
// Settings decide which account the credentials belong to and, if a connector's URLs contain
// settings, which host gets them. An import or update that changes such a host must
// therefore bring the secrets for it: a caller that may change settings must not be able to
// redirect secrets that it cannot see.
//
// # How a refresh token is kept from being burnt
//
// A provider that rotates refresh tokens takes the second use of one for theft, and revokes
// the whole grant (RFC 9700 section 4.14.2). So each is sent once:
//
//   - In a process, all callers that need a refresh of a connection share one flight, which
//     none of them can cancel.
//   - Across processes, the flight takes a [record.Lease] in the record by compare-and-set.
//     Other processes wait. They take over only after they have watched the lease for its
//     whole duration on their own clock.
//   - The record is read inside the flight: a token that another process saved is adopted.
//   - One request is sent, on a new connection, without redirects and without a second try.
//     The [record.Class] of a failure says whether the refresh token may have been spent.
//   - The answer is saved only if the record still holds the refresh token that was redeemed
//     for it. Until the store takes it, it goes to the journal and is served from
//     memory, saving is repeated, and [Broker.Close] waits.
//
// # For embedders
//
// The Caddy module is one user of this package; other programs can embed it. [New] takes
// the [Options]: a [record.Store], which may implement [record.CheckedStore],
// [record.VersionedStore] and [record.SharedStore] as well, optionally a [record.Journal],
// and a [Clock] to simulate time. [Broker.Configure] takes a [record.Config] with the connectors and
// a [record.EventSink]. [Broker.Start] saves what an earlier process left in the journal, and
// [Broker.Close] waits until everything is saved.
//
// There are three ways to use a credential. [Broker.Admit] and [Admission.Authorize], as
// above, are for callers that share [record.Limits]. [Broker.Authorize] does the same without
// limits. [Source.Token] returns a [Token], and [Source.OAuth2] an oauth2.TokenSource; the
// embedder then sees the token, and decides itself where it goes.
//
// # Where things are
//
//	record                  records and the rules by which they change; the interfaces of
//	                        stores, journals and event sinks; errors
//	connector               definitions of services, their templates, and the catalogue
//	secret                  values that no format verb, encoder or log prints
//	guard                   dialers that refuse private and metadata addresses
//	apideck                 the HTTP contract with callers: header names and JSON
//	vaultkv, boltstore      the stores: HashiCorp Vault, and a local file
//	journal                 token responses that the store did not take, on disk
//	webhook                 an EventSink that posts events
//	internal/engine         refreshes: who sends what when, and what is kept in memory
//	internal/breaker        spaces the requests to a token endpoint that refuses
//	internal/tracing        spans
//	internal/tokenendpoint  sends token requests and revocations, and classes the answers
//	internal/inject         puts credentials into requests, and scrubs responses
//
// This package is the facade over these: broker.go sets it up; admission.go, authorize.go,
// proxycall.go and token.go serve requests; import.go, update.go, delete.go, connections.go
// and validate.go are the operations.
//
// # What is never written
//
// Tokens, client secrets, API keys and sensitive settings are in no error, log, span or
// event. They are of type [secret.String], and errors of OAuth clients and stores, which
// could contain them, are mapped to the broker's own.
package broker
