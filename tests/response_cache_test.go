package tests

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// Vary names each header that decides the answer; where that is not known, no cache may use it.
func TestResponsesSayWhatTheyDependOn(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	const forProxy = "authorization, x-apideck-app-id, x-apideck-consumer-id, x-apideck-unified-api, x-apideck-service-id, x-apideck-downstream-url, " +
		"x-apideck-downstream-method, x-apideck-downstream-authorization"
	const withKey = "authorization, x-apideck-app-id, x-apideck-consumer-id"
	s.connect(t, stream, "127.0.0.1")
	for _, tt := range []struct{ path, sent, vary, caches string }{
		{"/proxy", "max-age=60", forProxy, "max-age=60"},
		{"/proxy", "public, max-age=60", forProxy, "public, max-age=60"},
		{"/header/x", "max-age=60", withKey, "private, max-age=60"},
		{"/header/x", "", withKey, "private"},
		{"/header/x", "public, max-age=60", withKey, "public, max-age=60"},
		{"/header/x", "no-store", withKey, "no-store"},
		{"/open/x", "max-age=60", "x-apideck-consumer-id", "private, max-age=60"},
		{"/fixed/x", "max-age=60", "", "private, max-age=60"},
		{"/by-address/x", "public, s-maxage=60", "*", "private"},
	} {
		fields := []string{"Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT"}
		if tt.sent != "" {
			fields = append(fields, "Cache-Control: "+tt.sent)
		}
		for _, accept := range []string{"", "Accept"} {
			s.sends(http.StatusOK, append(fields, "Vary: "+accept)...)
			header := s.deployment.apiHeader(consumer)
			header.Set("X-Apideck-Service-Id", "stream")
			header.Set("X-Apideck-Downstream-Url", s.service.URL)
			got := send(t, http.MethodGet, s.apiURL(tt.path), header, "")
			want := strings.TrimSuffix(accept+", "+tt.vary, ", ")
			if accept == "" || tt.vary == "*" {
				want = tt.vary
			}
			if vary := strings.TrimPrefix(strings.Join(got.header.Values("Vary"), ", "), ", "); vary != want || got.status != http.StatusOK {
				t.Errorf("%s: got %d with Vary %q, want %q", tt.path, got.status, vary, want)
			}
			if caches := got.header.Get("Cache-Control"); caches != tt.caches {
				t.Errorf("%s: Cache-Control: %s became %q, want %q", tt.path, tt.sent, caches, tt.caches)
			}
		}
	}
	s.sends(http.StatusOK, "Connection: vary, cache-control, content-type")
	for _, by := range bothSides {
		if header := s.fetch(t, by, http.MethodGet, stream, "/").Header; header.Get("Vary") == "" {
			t.Errorf("%s: downstream has removed Vary by Connection: %v", by.name, header)
		}
	}
	// The next GET must not be answered from a cache: the POST that it stands for would be lost.
	s.sends(http.StatusOK, "Cache-Control: max-age=60")
	req := s.request(t, bothSides[0], http.MethodGet, stream, "/")
	req.Header.Set("X-Apideck-Downstream-Method", "POST")
	if got := sendProxied(t, req); got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a GET that stands for a POST has Cache-Control %q, want no-store", got.header.Get("Cache-Control"))
	}
}

// With a cache in front of the client, each consumer gets its own data.
func TestCachesServeEachConsumerItsOwnData(t *testing.T) {
	t.Parallel()
	installSDK(t)
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
		switch policy := r.URL.Query().Get("policy"); policy {
		case "last-modified":
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		case "public", "private":
			w.Header().Set("Cache-Control", policy+", max-age=60")
		case "max-age":
			w.Header().Set("Cache-Control", "max-age=60")
		case "s-maxage":
			w.Header().Set("Cache-Control", "s-maxage=60")
			w.Header().Set("CDN-Cache-Control", "max-age=60")
		}
		_, _ = io.WriteString(w, r.URL.Path+" of "+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	})
	for prefix, options := range map[string]string{"/header": "", "/open": " {\napp " + application + "\n}"} {
		d.site += "handle_path " + prefix + "/* {\nreverse_proxy " + service.URL + " {\ntransport token_broker " + stream + options + "\n}\n}\n"
	}
	p := d.start(t)
	consumers := []string{"c1", "c2"}
	for _, consumer := range consumers {
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "`+consumer+`"}}`).connection(t)
	}
	p.runNode(t, "caching.mjs", map[string]any{
		"downstream": service.URL, "consumers": consumers, "policies": []string{"last-modified", "public", "private", "max-age", "s-maxage"},
	})
}
