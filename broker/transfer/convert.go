package transfer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A Result is a converted row.
type Result struct {
	Row      *Row
	Text     []byte  `json:"-"` // the row as the file has it, if it can be sent like that; else nil. It has the row's secrets
	Skipped  string  // why the record is no connection, and Row is nil; empty for others
	Expiry   *Expiry // how the expiry was read; nil if the record has none
	ClientID string  // of the OAuth client that the grant belongs to; empty if unknown
}

// Format implements [fmt.Formatter] for every verb.
func (r Result) Format(f fmt.State, _ rune) {
	if r.Row != nil {
		r.Row.Format(f, 'v')
	}
}

// A Converter makes rows of the records of a source.
type Converter struct {
	preset    *preset
	options   Options
	mapped    map[string][]string // the columns of each field, from the options
	consumer  *template
	decrypter *decrypter
}

// NewConverter returns a converter.
func NewConverter(o Options) (*Converter, error) {
	p, err := findPreset(o.Format)
	if err != nil {
		return nil, err
	}
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	c := &Converter{preset: p, options: o, mapped: columnsByField(o.Map)}
	if c.decrypter, err = newDecrypter(o.EncryptionKey); err != nil {
		return nil, err
	}
	consumer := p.consumer
	if o.Consumer != "" {
		consumer = o.Consumer
	} else if len(c.mapped[fieldConsumer]) > 0 {
		consumer = "{" + c.mapped[fieldConsumer][0] + "}"
	}
	c.consumer, err = parseTemplate(consumer)
	return c, err
}

// Convert returns the row of a record. An error that is no [*RowError] concerns all records.
func (c *Converter) Convert(rec *Record) (*Result, error) {
	if rec.text != "" && c.isPlain() {
		text := []byte(rec.text)
		row, isPlain, err := parseRow(text)
		if err == nil {
			if !isPlain || len(text) > apideck.MaxBody {
				text = nil
			}
			return &Result{Row: row, Text: text, Expiry: canonicalExpiry(row)}, nil
		}
		if bad, ok := errors.AsType[malformed](err); ok {
			return nil, rowError(ReasonSyntax, "line %d: %v", rec.Line, bad)
		}
		if !rec.isFlat() {
			return nil, rowError(ReasonField, "%v", err)
		}
	}
	cols, err := rec.columns()
	if err != nil {
		return nil, rowError(ReasonSyntax, "%v", err)
	}
	if c.preset.skip != nil {
		if why, err := c.preset.skip(cols); err != nil || why != "" {
			return &Result{Skipped: why}, err
		}
	}
	if c.preset.prepare != nil {
		if err := c.preset.prepare(cols, c.decrypter); err != nil {
			return nil, err
		}
	}
	return c.build(cols)
}

// isPlain reports whether rows are canonical, with nothing that the options change.
func (c *Converter) isPlain() bool {
	o := &c.options
	return c.preset == &canonical && len(o.Map) == 0 && len(o.Connectors) == 0 && o.Consumer == ""
}

// canonicalExpiry returns the expiry of a canonical row, whose unit is given.
func canonicalExpiry(row *Row) *Expiry {
	switch c := row.Credentials; {
	case c == nil:
		return nil
	case !c.ExpiresAt.IsZero():
		return &Expiry{Column: fieldExpiresAt, Text: c.ExpiresAt.Format(time.RFC3339), Unit: UnitZoned, At: c.ExpiresAt}
	case c.ExpiresIn != nil:
		return &Expiry{Column: fieldExpiresIn, Text: c.ExpiresIn.String(), Unit: UnitLifetime, Lifetime: *c.ExpiresIn}
	default:
		return nil
	}
}

// lookup returns the first value among the columns of a field, and its column.
func (c *Converter) lookup(cols *columns, field string) (column string, value any) {
	for _, column := range c.mapped[field] {
		if value := cols.value(column); value != nil {
			return column, value
		}
	}
	for _, column := range c.preset.fields[field] {
		if _, isMapped := c.options.Map[column]; isMapped {
			continue
		}
		if value := cols.value(column); value != nil {
			return column, value
		}
	}
	return field, nil
}

func (c *Converter) text(cols *columns, field string) (string, error) {
	column, value := c.lookup(cols, field)
	return textOf(column, value)
}

// build returns the row that the columns make.
func (c *Converter) build(cols *columns) (*Result, error) {
	res := &Result{Row: &Row{}}
	row := res.Row
	var err error
	if c.preset.strict {
		if err := c.checkColumns(slices.Sorted(maps.Keys(cols.values))); err != nil {
			return nil, rowError(ReasonField, "%v", err)
		}
	}
	if row.ConsumerID, err = c.consumer.render(cols); err != nil {
		return nil, err
	}
	if row.App, err = c.text(cols, fieldApp); err != nil {
		return nil, err
	}
	if row.Connector, err = c.connector(cols); err != nil {
		return nil, err
	}
	if res.ClientID, err = c.text(cols, fieldClientID); err != nil {
		return nil, err
	}
	row.Settings, row.Metadata = c.object(cols, prefixSettings), c.object(cols, prefixMetadata)
	if err := c.credentials(cols, res); err != nil {
		return nil, err
	}
	if err := row.Validate(); err != nil {
		return nil, rowError(ReasonField, "%v", err)
	}
	return res, nil
}

// connector returns the connector of a row: what its columns say, or what the options make of
// the value that names it.
func (c *Converter) connector(cols *columns) (id connector.ID, err error) {
	if id.UnifiedAPI, err = c.text(cols, fieldUnifiedAPI); err != nil {
		return id, err
	}
	if id.ServiceID, err = c.text(cols, fieldService); err != nil {
		return id, err
	}
	if id.UnifiedAPI != "" && id.ServiceID != "" {
		return id, nil
	}
	var names, values []string
	for _, column := range append(slices.Clone(c.mapped[fieldConnector]), c.preset.connector...) {
		value, err := cols.text(column)
		if err != nil { // an object, whose members are columns too
			continue
		}
		if id, ok := c.options.Connectors[value]; ok && value != "" {
			return id, nil
		}
		if id, err := connector.ParseID(value); err == nil {
			return id, nil
		}
		if value != "" {
			names, values = append(names, column), append(values, value)
		}
	}
	if id, ok := c.options.Connectors[AnyConnector]; ok {
		return id, nil
	}
	if len(names) == 0 {
		return id, rowError(ReasonConnector, "nothing names the connector: add --connector <unified_api>/<service_id> for all rows, or --map <column>=connector")
	}
	return id, rowError(ReasonConnector, "%s %s has no connector: add --connector %s=<unified_api>/<service_id>",
		names[0], quoteName(values[0]), shellName(values[0]))
}
