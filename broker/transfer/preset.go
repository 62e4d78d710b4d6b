package transfer

import (
	"fmt"
	"strings"
)

// A preset says where a system keeps connections. Most are tables; prepare is for those that
// need more.
type preset struct {
	name   string
	source string // what it reads, for people

	// fields has the columns of each field, in order of preference: the first one with a
	// value counts.
	fields map[string][]string
	// connector has the columns whose value names the connector, in order of preference.
	connector []string
	// consumer is the default template; empty: the column consumer_id.
	consumer string
	// strict means that an unknown column is an error, unless it is mapped.
	strict bool

	// skip returns why a row is no connection, empty if it is one.
	skip func(*columns) (string, error)
	// prepare changes the columns, such as by decrypting them.
	prepare func(*columns, *decrypter) error
}

// presets are all formats. The first is the default.
var presets = []*preset{
	&canonical, &nangoDB, &nangoAPI, &authJS, &betterAuth, &allauth, &socialAuth, &omniauth, &socialite, &spring,
	&pipedream, &oauth2Token, &google,
}

// A Format is what a preset reads.
type Format struct {
	Name   string
	Source string
}

// Formats returns all formats, the default first.
func Formats() []Format {
	formats := make([]Format, 0, len(presets))
	for _, p := range presets {
		formats = append(formats, Format{Name: p.name, Source: p.source})
	}
	return formats
}

func findPreset(name string) (*preset, error) {
	if name == "" {
		return presets[0], nil
	}
	names := make([]string, 0, len(presets))
	for _, p := range presets {
		if p.name == name {
			return p, nil
		}
		names = append(names, p.name)
	}
	return nil, fmt.Errorf("there is no format %s; formats are %s", quoteName(name), strings.Join(names, ", "))
}

// canonical is the row of this package, for files that [ParseRow] does not read: CSV, and JSON
// with a mapping.
var canonical = preset{
	name: "canonical", source: "this broker's own rows, as NDJSON or CSV",
	fields: map[string][]string{
		fieldApp: {"app"}, fieldUnifiedAPI: {"unified_api"}, fieldService: {"service_id"},
		fieldAccessToken: {"credentials.access_token"}, fieldRefreshToken: {"credentials.refresh_token"},
		fieldIssuedAt: {"credentials.issued_at"}, fieldExpiresAt: {"credentials.expires_at"},
		fieldExpiresIn: {"credentials.expires_in"},
		// Objects: each member becomes one of the settings or metadata.
		prefixSettings: {"settings"}, prefixMetadata: {"metadata"},
	},
	consumer: "{consumer_id}",
	strict:   true,
}
