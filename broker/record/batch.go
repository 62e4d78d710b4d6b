package record

// An ImportRow is one import of a batch.
type ImportRow struct {
	Key    Key
	Import *Import
	Err    error // why the row cannot be imported; then Import is nil
}

// A VerifyRow asks whether a connection has certain tokens. They are given as keyed hashes,
// see [secret.String.MAC], so that nobody has to send them.
type VerifyRow struct {
	Key          Key
	AccessToken  []byte // nil: not compared
	RefreshToken []byte // nil: not compared
}

// Has reports whether the record has the tokens that row names. key is that of the hashes.
func (r *Record) Has(row *VerifyRow, key []byte) bool {
	c := r.Credentials
	if c == nil {
		c = &Credentials{}
	}
	access := row.AccessToken == nil || c.AccessToken.HasMAC(row.AccessToken, key)
	refresh := row.RefreshToken == nil || c.RefreshToken.HasMAC(row.RefreshToken, key)
	return access && refresh
}

// A Verdict says what a verification found.
type Verdict string

// The verdicts.
const (
	VerdictSame      Verdict = "same"      // the connection has the tokens
	VerdictDifferent Verdict = "different" // the connection has others, or none
	VerdictMissing   Verdict = "missing"   // there is no connection
)
