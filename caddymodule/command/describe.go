package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

// describe returns the text of `connectors` for one connector.
func describe(k *tokenbroker.KnownConnector) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", k.ID, k.Name)
	b.WriteString(facts(k))
	if len(k.Settings) > 0 {
		b.WriteString("\nSettings of a connection:\n" + settingsTable(&k.Definition))
	}
	fmt.Fprintf(&b, "\nIn the configuration:\n%s", configurationFor(&k.Definition))
	fmt.Fprintf(&b, "\nTo import a connection:\n  POST /vault/connections/%s/import\n%s", k.ID, indent(string(exampleImport(&k.Definition))))
	for _, note := range notes(&k.Definition) {
		b.WriteString("\n" + wrap(note, "", 96))
	}
	return b.String()
}

// facts lists the members of the definition, one per line.
func facts(k *tokenbroker.KnownConnector) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fact := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, text)
		}
	}
	d := &k.Definition
	for name, text := range d.Members() {
		switch name {
		case "id", "name", "settings", "source", "checked": // shown elsewhere
			continue
		case "rotation":
			if d.Grant().IgnoresRefreshTokens {
				continue
			}
		}
		fact(name, text)
	}
	fact("from", k.From)
	fact("source", d.Source)
	_ = w.Flush() // writing to a buffer does not fail
	if d.Checked != "" {
		b.WriteString("\n" + wrap(d.Checked, "  ", 96))
	}
	return b.String()
}

func settingsTable(d *connector.Definition) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range d.Settings {
		var words []string
		for _, word := range []struct {
			name string
			set  bool
		}{{"required", s.Required}, {"sensitive", s.Sensitive}, {"origin: an https URL without a path", s.Origin}} {
			if word.set {
				words = append(words, word.name)
			}
		}
		if s.Default != "" {
			words = append(words, "default "+s.Default)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", s.Name, s.Label, strings.Join(words, ", "))
	}
	_ = w.Flush()
	var trimmed strings.Builder // the last column may be empty
	for line := range strings.Lines(b.String()) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return trimmed.String()
}

// configurationFor returns the block that makes the connector usable.
func configurationFor(d *connector.Definition) string {
	if d.AuthType != connector.OAuth2 || everyClientIsOwn(d) {
		return fmt.Sprintf("  connector %s\n", d.ID)
	}
	name := strings.ToUpper(strings.ReplaceAll(d.ID.ServiceID, "-", "_"))
	return fmt.Sprintf("  connector %s {\n    client_id {env.%s_CLIENT_ID}\n    client_secret {env.%[2]s_CLIENT_SECRET}\n  }\n", d.ID, name)
}

// exampleBody is the body of an import, with its members in the usual order.
type exampleBody struct {
	Credentials *exampleCredentials `json:"credentials,omitempty"`
	Settings    map[string]string   `json:"settings,omitempty"`
}

type exampleCredentials struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IssuedAt     string `json:"issued_at"`
	ExpiresIn    int    `json:"expires_in"`
}

// exampleImport returns the smallest body that makes a connection of the connector callable.
func exampleImport(d *connector.Definition) []byte {
	var body exampleBody
	if d.AuthType == connector.OAuth2 && !d.FetchesTokens() {
		body.Credentials = &exampleCredentials{
			AccessToken: "your-access-token", RefreshToken: "your-refresh-token",
			IssuedAt: "2026-01-02T15:04:05Z", ExpiresIn: 3600,
		}
	}
	for _, name := range d.MissingSettings(nil) {
		if body.Settings == nil {
			body.Settings = make(map[string]string)
		}
		body.Settings[name] = d.ExampleSetting(name)
	}
	encoded, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		panic(err) // cannot happen: strings and a number
	}
	return append(encoded, '\n')
}

// notes returns hints on the import that its body does not show.
func notes(d *connector.Definition) []string {
	var notes []string
	switch {
	case d.FetchesTokens():
		notes = append(notes, "No token is imported: the first call fetches one.")
	case d.AuthType == connector.OAuth2 && d.RefreshTokenOptional:
		notes = append(notes, "Leave refresh_token out if there is none: then the access token is used until it expires or is refused.")
	}
	if d.AuthType == connector.OAuth2 && !d.FetchesTokens() {
		notes = append(notes, "Leave issued_at and expires_in (seconds) out if they are unknown: then the token is refreshed at once.")
	}
	switch {
	case everyClientIsOwn(d):
		notes = append(notes, "Each connection has its own OAuth client, in its settings.")
	case d.TakesClient():
		notes = append(notes, "A connection that has the setting client_id uses that OAuth client instead of the configuration's.")
	}
	return notes
}

// everyClientIsOwn reports whether each connection has its own OAuth client, so that the
// configuration needs none.
func everyClientIsOwn(d *connector.Definition) bool {
	return d.TakesClient() && slices.ContainsFunc(d.Settings, func(s connector.Setting) bool { return s.Name == "client_id" && s.Required })
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("  " + line)
	}
	return b.String()
}

// wrap breaks text at spaces into lines of at most width bytes.
func wrap(text, prefix string, width int) string {
	var b strings.Builder
	line := prefix
	for word := range strings.FieldsSeq(text) {
		if line != prefix && len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = prefix
		}
		if line != prefix {
			line += " "
		}
		line += word
	}
	return b.String() + line + "\n"
}
