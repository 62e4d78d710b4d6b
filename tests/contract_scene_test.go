package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// errorHeader is in every response that is the broker's own error, and in no other.
const errorHeader = "X-Token-Broker-Error"

// A contract is docs/openapi.yaml.
type contract struct {
	doc    *openapi3.T
	router routers.Router
}

// theContract loads the contract once for all tests.
var theContract = sync.OnceValues(func() (*contract, error) {
	doc, err := loadDocument()
	if err != nil {
		return nil, err
	}
	return newContract(doc)
})

func loadDocument() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromFile(filepath.Join(root, "docs", "openapi.yaml"))
	if err != nil {
		return nil, fmt.Errorf("docs/openapi.yaml: %w", err)
	}
	return doc, nil
}

func newContract(doc *openapi3.T) (*contract, error) {
	routed := *doc
	routed.Servers = nil // the tests use other servers
	routed.Paths = openapi3.NewPaths()
	for path, item := range doc.Paths.Map() {
		// OpenAPI cannot say that a parameter matches several segments; the router can.
		routed.Paths.Set(strings.ReplaceAll(path, "{path}", "{path:.*}"), item)
	}
	router, err := gorillamux.NewRouter(&routed)
	return &contract{doc, router}, err
}

// isOfAPI reports whether the document describes a path.
func isOfAPI(path string) bool {
	for _, prefix := range []string{"/vault", "/proxy"} {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// check returns an error if an exchange with the broker does not conform to the document. A
// request that does not conform must be refused. So tests need not mark requests that are bad
// on purpose, and a successful one that does not conform shows that the document is wrong.
func (c *contract) check(req *http.Request, body []byte, got answer) error {
	isError := len(got.header.Values(errorHeader)) > 0
	if isError {
		if err := c.checkError(req.Method, got); err != nil {
			return fmt.Errorf("the error response to %s %s does not conform to docs/openapi.yaml: %w", req.Method, req.URL.Path, err)
		}
	}
	// A sidecar's paths are downstream's. The response to HEAD has no body to check.
	if !isOfAPI(req.URL.Path) || req.Method == http.MethodHead {
		return nil
	}
	isRefused := isError && got.status/100 == 4
	input, err := c.request(req, body)
	if err == nil {
		err = openapi3filter.ValidateRequest(context.Background(), input)
	}
	if err != nil && !isRefused {
		return fmt.Errorf("docs/openapi.yaml does not allow %s %s, which was answered with %d: %w", req.Method, req.URL.Path, got.status, err)
	}
	if input == nil {
		return nil // no such path or method, and refused
	}
	if err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: got.status, Header: got.header,
		Body: io.NopCloser(bytes.NewReader(got.body)), Options: input.Options,
	}); err != nil {
		return fmt.Errorf("the response to %s %s does not conform to docs/openapi.yaml: %w", req.Method, req.URL.Path, err)
	}
	return nil
}

// request finds the operation of a request.
func (c *contract) request(req *http.Request, body []byte) (*openapi3filter.RequestValidationInput, error) {
	// A copy: the validator reads the body and sets defaults. The URL is without a host,
	// since the router matches paths only.
	seen := req.Clone(context.Background())
	seen.URL = &url.URL{Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}
	seen.Body = io.NopCloser(bytes.NewReader(body))
	seen.ContentLength = int64(len(body))
	if strings.HasPrefix(req.URL.Path, "/vault") {
		seen.Header.Set("Content-Type", "application/json") // the API accepts any type
	}
	route, parameters, err := c.router.FindRoute(seen)
	if err != nil {
		return nil, err
	}
	return &openapi3filter.RequestValidationInput{
		Request: seen, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, // refuses a status that the operation does not have
			AuthenticationFunc:    bearer,
		},
	}, nil
}

// bearer checks that a request has a bearer token, which is all that the document says of
// authentication.
func bearer(_ context.Context, input *openapi3filter.AuthenticationInput) error {
	header := input.RequestValidationInput.Request.Header.Get("Authorization")
	if scheme, key, _ := strings.Cut(header, " "); !strings.EqualFold(scheme, "Bearer") || key == "" {
		return input.NewError(errors.New("no bearer token"))
	}
	return nil
}

// checkError checks an error response of the broker, of any of its handlers.
func (c *contract) checkError(method string, got answer) error {
	if mediaType := got.header.Get("Content-Type"); mediaType != "application/json" {
		return fmt.Errorf("Content-Type is %q, want application/json", mediaType)
	}
	if got.status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
		return errors.New("the header Allow is missing (RFC 9110 section 15.5.6)")
	}
	if method == http.MethodHead {
		return nil
	}
	var body any
	if err := json.Unmarshal(got.body, &body); err != nil {
		return err
	}
	if err := c.doc.Components.Schemas["Error"].Value.VisitJSON(body); err != nil {
		return err
	}
	object := body.(map[string]any) // as the schema says
	if object["type_name"] != got.header.Get(errorHeader) || object["status_code"] != float64(got.status) {
		return fmt.Errorf("%s: %s and status %d do not match the body: %s", errorHeader, got.header.Get(errorHeader), got.status, got.body)
	}
	return nil
}
