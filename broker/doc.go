// Package broker keeps other people's API credentials so that an application does
// not have to: connections that were authorised elsewhere are imported, their
// secrets live in a [Store], their OAuth tokens stay fresh, and every request to the
// third-party service leaves with a valid credential that the application never sees.
//
// # Words
//
// An application is a caller. Its customers are consumers. A [Connector] is one
// third-party service under a unified API, "crm/hubspot". A connection is what an
// application has for one consumer at one connector; a [Key] names it and a [Record]
// holds it: credentials, settings, metadata and how refreshing has gone. To redeem a
// refresh token is to spend it at the token endpoint. The generation of a record
// counts the credentials that it has had.
//
// # The life of a connection
//
// [Broker.Import] creates it, or updates it without ever replacing credentials by
// older ones, and queues a refresh if the token that came may be expired.
// [Source.Token] hands out valid tokens. A token is refreshed ahead of its expiry while
// it is still being served; only when there is no valid one does a caller wait. What a
// refresh led to is told to the configured [EventSink]. Where the grant allows it, client
// credentials or a password, tokens are fetched the same way, and an import brings no
// more than settings; [Broker.ObtainToken] fetches one at once.
//
// [Broker.Connections] lists what a consumer has and could have, [Broker.Validate] finds
// out whether credentials work, [Broker.Update] changes settings, metadata and whether
// the connection may be used at all. [Broker.Delete] leaves a tombstone, and takes the
// grant back where the provider has an endpoint for that (RFC 7009).
//
// # A request to downstream
//
// [Broker.Admit] counts the request against the [Limits] until it is released.
// [Broker.AdmitCall] does that where callers name the connection and the URL in the
// request, and finds both. [Admission.Authorize] puts the credential in, if the request
// goes to a host that the connector allows and as its [connector.Definition] says, and
// [Authorization.Observe] scrubs the response of it. After a 401, [Authorization.Renew]
// says whether there is a newer token to try.
//
// Settings say whose credentials they are and, where a connector's URLs have settings in
// them, which host gets them. So an import or update that changes such a host must bring
// the secrets that would go there: who may change settings may not see secrets.
//
// # How a refresh token is kept from being burnt
//
// A provider that rotates refresh tokens takes a spent one that comes back for a
// theft and revokes the whole grant (RFC 9700 section 4.14.2). So each is sent once:
//
//   - In the process, all who want a refresh of a connection share one flight, which
//     none of them can cancel.
//   - Across processes, the flight takes a [Lease] in the record by compare-and-set.
//     Others wait, and take over only after they have watched the lease for its whole
//     duration on their own clock.
//   - The record is read inside the flight: what another process saved is adopted.
//   - One request is sent, on a connection of its own, without redirects, without a
//     second try. Its failure has a [Class] that says whether the refresh token may
//     have been spent.
//   - The answer is saved exactly if the record still holds the refresh token that it
//     was bought with. Until the store takes it, it is served from memory, saving is
//     repeated, and [Broker.Close] waits.
//
// # What is never written
//
// Tokens, client secrets, API keys and sensitive settings are in no error, log,
// span or event: they are [Secret]s, and the errors of OAuth clients and stores,
// which can carry them, are mapped to the broker's own.
package broker
