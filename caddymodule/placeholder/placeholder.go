package placeholder

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// placeholderPattern finds the placeholders in the value of a field.
var placeholderPattern = regexp.MustCompile(`\{[a-zA-Z_]+\.[^{}]+\}`)

// Find returns the placeholders in s, braces included.
func Find(s string) []string { return placeholderPattern.FindAllString(s, -1) }

// mistypedPattern finds what was meant for a placeholder: {env:NAME}, ${NAME}, {$NAME}
// where Caddy does not replace it, as in JSON.
var mistypedPattern = regexp.MustCompile(`^\s*(\$\{[^{}]*\}|\{(\$|env\b|file\b)[^{}]*\})\s*$`)

// Secret returns the secret that a field's value stands for. Fields hold
// placeholders, so that neither the adapted configuration nor the admin API shows the
// secret; a secret that stands there itself works, but is warned about.
func Secret(logger *slog.Logger, field, value string) (broker.Secret, error) {
	resolved, err := Resolve(field, value)
	if err != nil {
		return broker.Secret{}, err
	}
	if !placeholderPattern.MatchString(value) {
		logger.LogAttrs(context.Background(), slog.LevelWarn,
			"the configuration contains a secret, and so does what the admin API shows of it; write a placeholder such as {file./run/secrets/name} or {env.NAME} ({$NAME} is not one)",
			slog.String("field", field))
	}
	return broker.NewSecret(resolved), nil
}

// Resolve replaces the placeholders in the value of a field. Its error names them and
// the field, and nothing else of the value, which may be a secret in part.
func Resolve(field, value string) (string, error) {
	found := Find(value)
	if found == nil {
		if mistypedPattern.MatchString(value) {
			return "", fmt.Errorf("%s looks like a placeholder and is none, so it would be taken as it stands: write {env.NAME}, or {file./run/secrets/name}", field)
		}
		return value, checkResolved(field, value)
	}
	resolved, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %s has no value: set the variable, or write the file, that it names",
			field, strings.Join(found, ", "))
	}
	return resolved, checkResolved(field+": "+strings.Join(found, ", "), resolved)
}

func checkResolved(field, resolved string) error {
	switch {
	case resolved == "":
		return fmt.Errorf("%s is empty", field)
	case strings.ContainsAny(resolved, "\r\n\x00"):
		return fmt.Errorf("%s contains a line break: it has to be one line", field)
	default:
		return nil
	}
}
