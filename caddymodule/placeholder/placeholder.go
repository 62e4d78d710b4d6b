// Package placeholder resolves placeholders such as {env.NAME} and {file./path} in
// configured values.
package placeholder

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// placeholderPattern matches a placeholder.
var placeholderPattern = regexp.MustCompile(`\{[a-zA-Z_]+\.[^{}]+\}`)

// Find returns the placeholders in s, with their braces.
func Find(s string) []string { return placeholderPattern.FindAllString(s, -1) }

// mistypedPattern matches what was probably meant as a placeholder: {env:NAME}, ${NAME},
// and {$NAME} where Caddy does not replace it, as in JSON.
var mistypedPattern = regexp.MustCompile(`^\s*(\$\{[^{}]*\}|\{(\$|env\b|file\b)[^{}]*\})\s*$`)

// Secret resolves the value of a field that holds a secret. The value should be a
// placeholder, so that neither the adapted configuration nor the admin API shows the
// secret; a literal secret works, with a warning.
func Secret(logger *slog.Logger, field, value string) (secret.String, error) {
	resolved, err := Resolve(field, value)
	if err != nil {
		return secret.String{}, err
	}
	if !placeholderPattern.MatchString(value) {
		logger.LogAttrs(context.Background(), slog.LevelWarn,
			"the configuration contains a literal secret, which the admin API shows; use a placeholder such as {file./run/secrets/name} or {env.NAME}, not {$NAME}",
			slog.String("field", field))
	}
	return secret.New(resolved), nil
}

// Resolve replaces the placeholders in the value of a field. Errors name the field and
// the placeholders but never quote the rest of the value, which may be secret.
func Resolve(field, value string) (string, error) {
	found := Find(value)
	if found == nil {
		if mistypedPattern.MatchString(value) {
			return "", fmt.Errorf("%s looks like a placeholder but would be used literally: write {env.NAME} or {file./run/secrets/name}", field)
		}
		return value, checkResolved(field, value)
	}
	resolved, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %s has no value: set the environment variable or create the file",
			field, strings.Join(found, ", "))
	}
	return resolved, checkResolved(field+": "+strings.Join(found, ", "), resolved)
}

func checkResolved(field, resolved string) error {
	switch {
	case resolved == "":
		return fmt.Errorf("%s is empty", field)
	case strings.ContainsAny(resolved, "\r\n\x00"):
		return fmt.Errorf("%s contains a line break: it must be a single line", field)
	default:
		return nil
	}
}
