package broker

// A Class says what a failed refresh means for the connection.
type Class string

// The classes of failure.
const (
	// ClassPermanent: the token endpoint refused this refresh token for good.
	ClassPermanent Class = "permanent"
	// ClassConfiguration: the client, not the connection, is wrong; nothing is lost.
	ClassConfiguration Class = "configuration"
	// ClassTransient: the refresh token was surely not spent; try again later.
	ClassTransient Class = "transient"
	// ClassAmbiguous: nobody knows whether the refresh token was spent.
	ClassAmbiguous Class = "ambiguous"
)

// codeInvalidGrant is RFC 6749's error code for a refresh token that is not valid
// any more (section 5.2).
const codeInvalidGrant = "invalid_grant"
