package transfer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Options say how the rows of a file become connections.
type Options struct {
	// Format is the name of a preset; empty means canonical.
	Format string
	// Map has the field of each column that the preset does not know, or takes for another
	// field: see [ParseMapping].
	Map map[string]string
	// Connectors has the connector of each value that names one in the source: see
	// [ParseConnector].
	Connectors map[string]connector.ID
	// Consumer is a template such as "{organization_id}"; empty means the preset's.
	Consumer string
	// Zone is the zone of times without one; nil means UTC.
	Zone *time.Location
	// EncryptionKey decrypts the credentials of the preset nango-db: base64 of 32 bytes.
	EncryptionKey secret.String
}

// The fields of a row, as a mapping names them. Those of settings and metadata have their
// member's name after the dot.
const (
	fieldApp            = "app"
	fieldConsumer       = "consumer_id"
	fieldUnifiedAPI     = "unified_api"
	fieldService        = "service_id"
	fieldConnector      = "connector" // a value that Options.Connectors translates
	fieldAccessToken    = "credentials.access_token"
	fieldRefreshToken   = "credentials.refresh_token"
	fieldIssuedAt       = "credentials.issued_at"
	fieldExpiresAt      = "credentials.expires_at" // in any unit
	fieldExpiresIn      = "credentials.expires_in"
	fieldRefreshExpires = "credentials.refresh_token_expires_at" // in any unit
	fieldClientID       = "client_id"                            // of the OAuth client that the grant belongs to
	fieldIgnore         = "-"

	prefixSettings = "settings."
	prefixMetadata = "metadata."
)

var plainFields = []string{
	fieldApp, fieldConsumer, fieldUnifiedAPI, fieldService, fieldConnector, fieldAccessToken, fieldRefreshToken,
	fieldIssuedAt, fieldExpiresAt, fieldExpiresIn, fieldRefreshExpires, fieldClientID, fieldIgnore,
}

// isObjectField reports whether a field is a member of the settings or metadata.
func isObjectField(field string) bool {
	return len(field) > len(prefixSettings) && (strings.HasPrefix(field, prefixSettings) || strings.HasPrefix(field, prefixMetadata))
}

// ParseMapping reads "column=field".
func ParseMapping(s string) (column, field string, err error) {
	i := strings.LastIndexByte(s, '=')
	if i <= 0 {
		return "", "", fmt.Errorf("%q: write a mapping as <column>=<field>", s)
	}
	column, field = s[:i], s[i+1:]
	if !slices.Contains(plainFields, field) && !isObjectField(field) {
		return "", "", fmt.Errorf("%q: there is no field %s; fields are %s, settings.<name> and metadata.<name>, and - ignores the column",
			s, field, strings.Join(plainFields[:len(plainFields)-1], ", "))
	}
	return column, field, nil
}

// AnyConnector is the value in [Options].Connectors for the rows whose own value is not there.
const AnyConnector = "*"

// ParseConnector reads "value=unified_api/service_id". Without a value the connector is that of
// all rows, under [AnyConnector].
func ParseConnector(s string) (value string, id connector.ID, err error) {
	i := strings.LastIndexByte(s, '=')
	value = AnyConnector
	if i >= 0 {
		value = s[:i]
	}
	id, err = connector.ParseID(s[i+1:])
	if err != nil || value == "" {
		return "", id, fmt.Errorf("%q: write <value>=<unified_api>/<service_id>, or <unified_api>/<service_id> for all rows", s)
	}
	return value, id, nil
}

// columnsByField returns the columns of each field of a mapping.
func columnsByField(mapping map[string]string) map[string][]string {
	byField := make(map[string][]string, len(mapping))
	for _, column := range slices.Sorted(maps.Keys(mapping)) {
		byField[mapping[column]] = append(byField[mapping[column]], column)
	}
	return byField
}

// A template makes a name of a row's values: text, and columns in braces.
type template struct {
	text    []string // before each column, and after the last
	columns []string
}

func parseTemplate(s string) (*template, error) {
	t := &template{}
	rest := s
	for {
		text, after, found := strings.Cut(rest, "{")
		t.text = append(t.text, text)
		if !found {
			break
		}
		column, next, closed := strings.Cut(after, "}")
		if !closed || column == "" {
			return nil, fmt.Errorf("%q: write a column in braces, as in {organization_id}", s)
		}
		t.columns = append(t.columns, column)
		rest = next
	}
	if len(t.columns) == 0 {
		return nil, fmt.Errorf("%q names no column: all rows would be of one consumer; write a column in braces, as in {organization_id}", s)
	}
	return t, nil
}

// render returns the name. A column without a value is an error.
func (t *template) render(c *columns) (string, error) {
	var b strings.Builder
	for i, column := range t.columns {
		value, err := c.text(column)
		if err != nil {
			return "", err
		}
		if value == "" {
			return "", rowError(ReasonConsumer, "%s is empty: it names the consumer; name another column with --consumer", column)
		}
		b.WriteString(t.text[i] + value)
	}
	return b.String() + t.text[len(t.columns)], nil
}
