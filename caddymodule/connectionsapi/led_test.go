package connectionsapi

import (
	"net/http"
	"strings"
	"testing"
)

func TestRequestsThatAClientWasLedToSendAreRefused(t *testing.T) {
	t.Parallel()
	for header, refused := range map[string]bool{
		"Referer: http://127.0.0.1:8080/proxy":          true, // as curl -e ';auto' -L and Go send it
		"Referer: http://broker.test/proxy/contacts?a=": true,
		"Referer: http://broker.test/%70roxy/":          true,
		"Referer: /proxy":                               true,
		"Referer: https://broker.test/api/proxy/x":      true, // behind handle_path
		"Referer: http://broker.test/proxying":          false,
		"Referer: http://broker.test/dashboard":         false,
		"Sec-Fetch-Site: cross-site":                    true,
		"Sec-Fetch-Site: same-site":                     true,
		"Sec-Fetch-Site: none":                          true,
		"Sec-Fetch-Site: same-origin":                   false,
		"Sec-Fetch-Mode: navigate":                      true,
		"Sec-Fetch-Mode: no-cors":                       true,
		"Sec-Fetch-Mode: websocket":                     true,
		"Sec-Fetch-Mode: cors":                          false, // fetch of Node.js
		"Sec-Fetch-Mode: same-origin":                   false,
		"Sec-Fetch-Dest: document":                      true,
		"Sec-Fetch-Dest: empty":                         false,
		"Accept: */*":                                   false,
	} {
		name, value, _ := strings.Cut(header, ": ")
		r := &http.Request{Header: http.Header{name: {value}}}
		if err := refuseLed(r); (err != nil) != refused {
			t.Errorf("%s: got %v", header, err)
		}
	}
}
