package tests

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

func testDocument(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The document is valid OpenAPI, its examples conform to their schemas, and each operation has
// a description.
func TestOpenAPIDocumentIsValid(t *testing.T) {
	t.Parallel()
	doc := testDocument(t)
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaDefaultsValidation()); err != nil {
		t.Fatalf("docs/openapi.yaml is not valid OpenAPI: %v", err)
	}
	seen := make(map[string]string)
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			name := method + " " + path
			if operation.OperationID == "" || operation.Summary == "" || operation.Description == "" {
				t.Errorf("%s lacks an operationId, a summary or a description", name)
			}
			if other, ok := seen[operation.OperationID]; ok {
				t.Errorf("%s and %s have the operationId %s", name, other, operation.OperationID)
			}
			seen[operation.OperationID] = name
		}
	}
	for name, response := range doc.Components.Responses {
		for mediaType, content := range response.Value.Content {
			if content.Schema != nil && content.Example == nil && len(content.Examples) == 0 {
				t.Errorf("the response %s has no example in %s", name, mediaType)
			}
		}
	}
}

// The document lists the types of errors that the code can send, and no others.
func TestOpenAPIDocumentListsEveryError(t *testing.T) {
	t.Parallel()
	doc := testDocument(t)
	sent := errorTypesInCode(t)
	if len(sent) < 10 {
		t.Fatalf("found only the errors %v in the code: this test looks in the wrong place", sent)
	}
	var listed, explained []string
	statuses := make(map[string]string)
	for _, name := range doc.Components.Schemas["ErrorType"].Value.Enum {
		listed = append(listed, name.(string))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+Error)` \\| (\\d{3}) \\|").FindAllStringSubmatch(doc.Info.Description, -1) {
		explained = append(explained, row[1])
		statuses[row[1]] = row[2]
	}
	for typeName, status := range statusesInResponses(t, doc) {
		if statuses[typeName] != status {
			t.Errorf("the table of errors has status %s for %s, and the responses have %s", statuses[typeName], typeName, status)
		}
	}
	slices.Sort(listed)
	slices.Sort(explained)
	if !slices.Equal(listed, sent) {
		t.Errorf("the schema ErrorType lists %v\nwant, as in the code,   %v", listed, sent)
	}
	if !slices.Equal(explained, sent) {
		t.Errorf("the table of errors has  %v\nwant, as in the code,   %v", explained, sent)
	}
}

// statusesInResponses returns the status of each type of error in the document's responses.
func statusesInResponses(t *testing.T, doc *openapi3.T) map[string]string {
	t.Helper()
	statuses := make(map[string]string)
	for _, response := range doc.Components.Responses {
		content := response.Value.Content["application/json"]
		if content == nil || content.Schema == nil || len(content.Schema.Value.AllOf) != 2 {
			continue // not the schema of one error
		}
		own := content.Schema.Value.AllOf[1].Value.Properties
		for _, typeName := range own["type_name"].Value.Enum {
			statuses[typeName.(string)] = fmt.Sprint(own["status_code"].Value.Enum[0])
		}
	}
	if len(statuses) < 5 {
		t.Errorf("found only the errors %v in the responses: this test looks in the wrong place", statuses)
	}
	return statuses
}

// errorTypesInCode returns the type names of errors in the code of the adapter. No other code
// names them.
func errorTypesInCode(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(root, "caddymodule"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	typeName := regexp.MustCompile(`^[A-Z][A-Za-z]*Error$`)
	names := make(map[string]bool)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if s, err := strconv.Unquote(literal.Value); err == nil && typeName.MatchString(s) {
				names[s] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(names))
}

// The check of every exchange with the API finds faults.
func TestExchangesAreCheckedAgainstTheDocument(t *testing.T) {
	t.Parallel()
	document, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	const (
		one        = "/vault/connections/crm/acme"
		connection = `"id":"crm+acme","service_id":"acme","name":"Acme","unified_api":"crm","state":"callable","integration_state":"configured",` +
			`"auth_type":"apiKey","status":"live","enabled":true,"settings":{},"metadata":{},"form_fields":[],"health":"ok",` +
			`"credentials_expire_at":0,"last_refresh_failed_at":0,"updated_at":1`
		good     = `{"status_code":200,"status":"OK","data":{` + connection + `,"created_at":1}}`
		notFound = `{"status_code":404,"error":"Not Found","type_name":"ConnectionNotFoundError","message":"m","detail":"d","ref":"https://e.test/"}`
	)
	caller := func(more ...string) http.Header {
		h := http.Header{"Authorization": {"Bearer key"}, "X-Apideck-App-Id": {application}, "X-Apideck-Consumer-Id": {consumer}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = []string{more[i+1]}
		}
		return h
	}
	answered := func(more ...string) http.Header {
		h := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = []string{more[i+1]}
		}
		return h
	}
	failed := answered(errorHeader, "ConnectionNotFoundError")
	tests := []struct {
		name, method, path string
		header             http.Header
		body               string
		answer             answer
		fault              string // in the error; empty: none
	}{
		{"a correct exchange", "GET", one, caller(), "", answer{200, answered(), []byte(good)}, ""},
		{"a path that is not the API's", "GET", "/acme/contacts", http.Header{}, "", answer{418, http.Header{}, []byte("?")}, ""},
		{"a correct error", "GET", one, caller(), "", answer{404, failed, []byte(notFound)}, ""},
		{"a bad request that is refused", "POST", one + "/import", caller(), `{"x":1}`, answer{
			400, answered(errorHeader, "RequestValidationError"),
			[]byte(`{"status_code":400,"error":"Bad Request","type_name":"RequestValidationError","message":"m","detail":"d","ref":"https://e.test/"}`),
		}, ""},
		{"an unknown path that is refused", "GET", "/vault/x", caller(), "", answer{
			404, answered(errorHeader, "EntityNotFoundError"),
			[]byte(`{"status_code":404,"error":"Not Found","type_name":"EntityNotFoundError","message":"m","detail":"d","ref":"https://e.test/"}`),
		}, ""},

		{"an extra member", "GET", one, caller(), "", answer{200, answered(), []byte(strings.Replace(good, `"id"`, `"access_token":"at","id"`, 1))}, "access_token"},
		{"a missing member", "GET", one, caller(), "", answer{200, answered(), []byte(strings.Replace(good, `"state":"callable",`, "", 1))}, "state"},
		{"a time that is a string", "GET", one, caller(), "", answer{200, answered(), []byte(strings.Replace(good, `"created_at":1`, `"created_at":"2026-01-02T15:04:05Z"`, 1))}, "created_at"},
		{"an unknown state", "GET", one, caller(), "", answer{200, answered(), []byte(strings.Replace(good, "callable", "ready", 1))}, "state"},
		{"no JSON", "GET", one, caller(), "", answer{200, answered("Content-Type", "text/plain"), []byte("OK")}, "Content-Type"},
		{"a missing header", "POST", one + "/import", caller(), "{}", answer{200, answered(), []byte(good)}, "X-Token-Broker-Import"},
		{"a status that the operation does not list", "GET", one, caller(), "", answer{409, answered(), nil}, "status is not supported"},
		{"an error without its header", "GET", one, caller(), "", answer{404, answered(), []byte(notFound)}, errorHeader},
		{
			"an error whose type differs from its header", "GET", one, caller(), "",
			answer{404, answered(errorHeader, "ConnectorNotFoundError"), []byte(notFound)},
			"do not match the body",
		},
		{"an error with another status", "GET", one, caller(), "", answer{403, failed, []byte(notFound)}, "do not match the body"},
		{
			"an error of an unknown type", "GET", "/acme/contacts", caller(), "",
			answer{404, answered(errorHeader, "NewError"), []byte(strings.ReplaceAll(notFound, "ConnectionNotFoundError", "NewError"))},
			"type_name",
		},
		{"a 405 without Allow", "PUT", one, caller(), "", answer{405, answered(errorHeader, "MethodNotAllowedError"), []byte("{}")}, "Allow"},
		{"an error that the operation does not list", "GET", one, caller(), "", answer{
			404, answered(errorHeader, "EntityNotFoundError"),
			[]byte(strings.ReplaceAll(notFound, "ConnectionNotFoundError", "EntityNotFoundError")),
		}, "type_name"},
		{
			"a bad request that succeeds", "POST", one + "/import", caller(), `{"expires":1}`,
			answer{200, answered("X-Token-Broker-Import", "stored"), []byte(good)},
			"does not allow",
		},
		{
			"no consumer, and a success", "GET", one,
			http.Header{"Authorization": {"Bearer key"}, "X-Apideck-App-Id": {application}},
			"",
			answer{200, answered(), []byte(good)},
			"x-apideck-consumer-id",
		},
		{"no key, and a success", "GET", one, caller("Authorization", ""), "", answer{200, answered(), []byte(good)}, "does not allow"},
		{"an unknown path that succeeds", "GET", "/vault/x", caller(), "", answer{200, answered(), []byte(good)}, "does not allow"},
		{"an unknown method that succeeds", "PUT", one, caller(), "{}", answer{200, answered(), []byte(good)}, "does not allow"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), test.method, "http://127.0.0.1:1234"+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = test.header
			err = document.check(req, []byte(test.body), test.answer)
			if test.fault == "" && err != nil {
				t.Errorf("check = %v, want nil", err)
			}
			if test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)) {
				t.Errorf("check = %v, want an error that contains %q", err, test.fault)
			}
		})
	}
}
