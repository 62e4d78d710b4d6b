package transfer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// CheckHeader returns an error if the columns of a CSV file cannot be those of the format.
func (c *Converter) CheckHeader(header []string) error {
	if c.preset.strict {
		return c.checkColumns(header)
	}
	cols := &columns{values: make(map[string]any, len(header))}
	for _, name := range header {
		cols.values[name] = nil
	}
	for _, column := range c.consumer.columns {
		if !cols.has(column) {
			return fmt.Errorf("the file has no column %s, which names the consumer: choose others with --consumer", quoteName(column))
		}
	}
	var wanted []string
	for field, defaults := range c.preset.fields {
		if field != fieldAccessToken && field != fieldRefreshToken {
			continue
		}
		wanted = append(wanted, defaults...)
		if slices.ContainsFunc(append(slices.Clone(defaults), c.mapped[field]...), cols.has) {
			return nil
		}
	}
	for field := range c.mapped {
		if strings.HasPrefix(field, prefixSettings) { // such as an API key
			return nil
		}
	}
	slices.Sort(wanted)
	return fmt.Errorf("the file has none of the columns of format %s: %s; name others with --map <column>=%s",
		c.preset.name, strings.Join(wanted, ", "), fieldAccessToken)
}

// has reports whether a column may have values at path.
func (c *columns) has(path string) bool {
	for {
		if _, ok := c.name(path); ok {
			return true
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

// checkColumns returns an error if a column has no field.
func (c *Converter) checkColumns(names []string) error {
	known := append(slices.Concat(slices.Collect(maps.Values(c.preset.fields))...), "credentials")
	known = slices.Concat(known, c.consumer.columns, slices.Collect(maps.Keys(c.options.Map)))
	for _, name := range names {
		isKnown := slices.ContainsFunc(known, func(path string) bool { return path == name || strings.HasPrefix(path, name+".") })
		if !isKnown && !isObjectField(name) {
			field := "<field>"
			if i := slices.IndexFunc(known, func(path string) bool { return strings.HasSuffix(path, "."+name) }); i >= 0 {
				field = known[i] // likely
			}
			return fmt.Errorf("the column %s is unknown: add --map %[2]s=%[3]s, --map %[2]s=- to ignore it, or --consumer '{%[2]s}' if it names the consumer",
				quoteName(name), shellName(name), field)
		}
	}
	return nil
}

// shellName returns a name as it can be typed, shortened.
func shellName(name string) string { return strings.Trim(quoteName(name), `"`) }

// credentials sets the credentials of the row, unless it has none.
func (c *Converter) credentials(cols *columns, res *Result) error {
	var creds record.ImportCredentials
	for _, token := range []struct {
		field string
		value *secret.String
	}{{fieldAccessToken, &creds.AccessToken}, {fieldRefreshToken, &creds.RefreshToken}} {
		text, err := c.text(cols, token.field)
		if err != nil {
			return err
		}
		*token.value = secret.New(strings.TrimSpace(text))
	}
	if creds.AccessToken.IsZero() && creds.RefreshToken.IsZero() {
		return nil
	}
	column, value := c.lookup(cols, fieldIssuedAt)
	issuedAt, err := parseTime(column, value, c.options.Zone)
	if err != nil {
		return err
	}
	creds.IssuedAt = issuedAt
	column, value = c.lookup(cols, fieldExpiresIn)
	if creds.ExpiresIn, err = parseLifetime(column, value); err != nil {
		return err
	}
	column, value = c.lookup(cols, fieldExpiresAt)
	if res.Expiry, err = parseExpiry(column, value, c.options.Zone); err != nil {
		return err
	}
	if e := res.Expiry; e != nil && e.Unit == UnitLifetime {
		creds.ExpiresIn = &e.Lifetime
	} else if e != nil {
		creds.ExpiresAt = e.At
	}
	column, value = c.lookup(cols, fieldRefreshExpires)
	refresh, err := parseExpiry(column, value, c.options.Zone)
	if err != nil {
		return err
	}
	if refresh != nil && !issuedAt.IsZero() && refresh.At.After(issuedAt) { // the lifetime counts from the time of issue
		creds.RefreshExpiresIn = refresh.At.Sub(issuedAt)
	}
	res.Row.Credentials = &creds
	return nil
}

// object returns the settings or metadata of a row: the members of an object that the preset
// takes whole, and the fields with that prefix.
func (c *Converter) object(cols *columns, prefix string) map[string]any {
	object := make(map[string]any)
	for _, column := range c.preset.fields[prefix] {
		if name, ok := cols.name(column); ok {
			if inner := cols.object(name); inner != nil {
				maps.Copy(object, inner.values)
			}
		}
	}
	fields := make(map[string]string) // columns by field
	for column := range cols.values {
		if c.preset.strict && strings.HasPrefix(column, prefix) {
			fields[column] = column
		}
	}
	for _, table := range []map[string][]string{c.preset.fields, c.mapped} {
		for field := range table {
			if isObjectField(field) && strings.HasPrefix(field, prefix) {
				fields[field], _ = c.lookup(cols, field)
			}
		}
	}
	for field, column := range fields {
		if value := cols.value(column); value != nil {
			object[strings.TrimPrefix(field, prefix)] = value
		}
	}
	if len(object) == 0 {
		return nil
	}
	return object
}
