package tokenendpoint

import (
	"mime"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// maxDetail bounds what is kept of a refusal beyond its code, in bytes.
const maxDetail = 200

// detailMembers are members of an error body that say more than its code, and bodyIDs those
// with which services find a request in their logs. The values are short words or numbers.
var (
	detailMembers = []string{"suberror", "error_codes", "error_code", "errorcode", "errcode", "error_subcode", "error_subtype", "sub_code", "errno", "err_no", "status", "code"}
	bodyIDs       = []string{"correlation_id", "trace_id", "request_id"}
)

// requestIDs are header fields of the same kind.
var requestIDs = []string{
	"X-Ms-Request-Id", "Intuit_tid", "X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Amzn-Requestid", "X-Trace-Id", "Cf-Ray",
}

// errorNumber is a number that services put into the description of an error, such as
// AADSTS50173 or ORA-01017.
var errorNumber = regexp.MustCompile(`\b[A-Z]{3,8}-?[0-9]{3,8}\b`)

// detail returns what a refusal says beyond its code, in a form that is safe to log: pairs like
// suberror=bad_token, without descriptions. A value that could be a secret is left out.
func (r *Request) detail(x *exchange, f *refusal) string {
	var b strings.Builder
	add := func(name, value string) {
		value = r.showable(value)
		if value == record.CodeUnknownError || name == "status" && value == strconv.Itoa(x.status) || value == "" || value == f.code || b.Len()+len(name)+len(value)+2 > maxDetail {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(name + "=" + value)
	}
	for _, name := range detailMembers {
		for _, value := range f.details[name] {
			add(name, value)
		}
	}
	for _, number := range f.numbers() {
		add("number", number)
	}
	for _, name := range requestIDs {
		add(strings.ToLower(name), x.header.Get(name))
	}
	if !f.named {
		kind, _, _ := mime.ParseMediaType(x.header.Get("Content-Type"))
		if kind != "application/json" {
			add("content-type", strings.ReplaceAll(kind, "/", "."))
		}
		server, _, _ := strings.Cut(x.header.Get("Server"), "/")
		add("server", strings.ReplaceAll(server, " ", "-"))
	}
	for _, name := range bodyIDs { // last: they are long
		for _, value := range f.details[name] {
			add(name, value)
		}
	}
	return b.String()
}

// numbers returns the first error numbers in the descriptions, each once. A page of HTML has
// many that mean something else.
func (f *refusal) numbers() []string {
	const most = 3
	var numbers []string
	if f.foreign {
		return nil
	}
	for _, value := range f.values {
		for _, number := range errorNumber.FindAllString(value, most) {
			if !slices.Contains(numbers, number) && len(numbers) < most {
				numbers = append(numbers, number)
			}
		}
	}
	return numbers
}
