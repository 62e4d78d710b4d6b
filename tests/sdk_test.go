package tests

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// Timeouts of npm and of a script.
const (
	installTimeout = 3 * time.Minute
	scriptTimeout  = 5 * time.Minute
)

// installedSDK returns the directory whose node_modules contains the SDK.
var installedSDK = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tests", "sdk", "install.sh"))
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// installSDK returns the directory of the official TypeScript SDK. Without Node.js the test is
// skipped, which make test reports; in CI it fails.
func installSDK(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: CI must run the official SDK against the broker", program)
		}
		t.Skipf("SKIPPED: %s is missing, so the official SDK does not run against the broker", program)
	}
	dir, err := installedSDK()
	if err != nil {
		t.Fatalf("tests/sdk/install.sh: %v", err)
	}
	return dir
}

// runSDK runs a script of tests/sdk with the login of a customer.
func runSDK(t *testing.T, p *process, f *front, script, customer string, login oauthserver.Tokens) {
	t.Helper()
	p.runNode(t, script, map[string]any{
		"serverURL": f.url, "downstream": p.deployment.provider.APIURL, "consumer": customer,
		"login": map[string]any{
			"access_token": login.AccessToken, "refresh_token": login.RefreshToken,
			"issued_at": login.IssuedAt.Format(time.RFC3339), "expires_in": int(login.Lifetime.Seconds()),
		},
	})
}

// runNode runs a script of tests/sdk with the given parameters, besides those of the process.
func (p *process) runNode(t *testing.T, script string, given map[string]any) {
	t.Helper()
	parameters := map[string]any{
		"packages": installSDK(t), "serverURL": p.apiURL(""), "apiKey": p.deployment.apiKey, "application": application, "consumer": consumer,
	}
	maps.Copy(parameters, given)
	encoded, err := json.Marshal(parameters)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(root, "tests", "sdk", script))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.deployment.dir, "SDK_TEST=" + string(encoded)}
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("node tests/sdk/%s: %v\n%s", script, err, out)
	}
}

func TestOfficialSDKManagesConnections(t *testing.T) {
	installSDK(t)
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		f := startFront(t, p)
		runSDK(t, p, f, "connections.mjs", consumer, d.provider.Login(t, consumer, 0))
		operations := []string{
			"connectionsAll", "connectionsOne", "connectionsUpdate", "connectionsDelete", "connectionsImport",
			"validateConnectionState", "connectionsToken", "consumersDelete",
		}
		f.wantCalled(t, operations...)
		f.wantNoRetries(t, operations...)
		if got := d.provider.Redeemed(consumer, 0); got != 1 {
			t.Errorf("the login's refresh token was redeemed %d times, want 1, by the validation", got)
		}
	})
}

func TestOfficialSDKCallsDownstream(t *testing.T) {
	installSDK(t)
	inEveryStore(t, func(t *testing.T, d *deployment) {
		d.provider.OnAPI(answerSDK)
		p := d.start(t)
		f := startFront(t, p)
		runSDK(t, p, f, "proxy.mjs", consumer, d.provider.Login(t, consumer, 0))
		f.wantCalled(t, "getProxy", "optionsProxy", "postProxy", "putProxy", "patchProxy", "deleteProxy")
		f.wantNoRetries(t, "optionsProxy", "postProxy", "putProxy", "patchProxy", "deleteProxy")
		if call, ok := d.provider.LastCall("/echo"); !ok || len(call.Header["X-Apideck-Timeout"]) != 0 || call.Header.Get("X-Apideck-Follow-Redirects") != "" {
			t.Errorf("downstream got the SDK's control headers: %v", call.Header)
		}
		if got := d.provider.Redeemed(consumer, 0); got != 1 {
			t.Errorf("the login's refresh token was redeemed %d times, want 1, after the 401", got)
		}
	})
}

// answerSDK plays the API that the script proxy.mjs calls.
func answerSDK(w http.ResponseWriter, r *http.Request, server http.Handler) {
	answer := func(status int, contentType, body string) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	what, detail, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch what {
	case "echo":
		body, _ := io.ReadAll(r.Body)
		authorization := r.Header.Get("Authorization")
		if authorization != "Bearer of the caller" && strings.HasPrefix(authorization, "Bearer ") {
			authorization = "Bearer of the connection" // without showing the token
		}
		echo, _ := json.Marshal(map[string]string{
			"method": r.Method, "target": r.RequestURI, "body": string(body), "authorization": authorization,
		})
		answer(http.StatusOK, "application/json", string(echo))
	case "csv":
		answer(http.StatusOK, "text/csv", "a;b\n1;2\n")
	case "binary":
		answer(http.StatusOK, "application/octet-stream", "\x00\xff\x01\xfe")
	case "hangs":
		<-r.Context().Done()
	case "fails":
		w.Header().Set("X-RateLimit-Limit", "100")
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", "30")
		status, _ := strconv.Atoi(detail)
		answer(status, "application/json", `{"reason":"downstream says so"}`)
	default:
		server.ServeHTTP(w, r)
	}
}

// A refresh that fails temporarily is a 503. The SDK waits for Retry-After and retries until it
// succeeds.
func TestOfficialSDKRetriesTemporaryFailures(t *testing.T) {
	installSDK(t)
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		f := startFront(t, p)
		fail := oauthserver.Fail(http.StatusServiceUnavailable, "text/plain", "down")
		d.provider.OnToken(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
			if f.hasAnswered("validateConnectionState", 5) {
				server.ServeHTTP(w, r)
				return
			}
			fail(w, r, server)
		})
		runSDK(t, p, f, "outage.mjs", consumer, d.provider.Login(t, consumer, time.Hour))
		got := f.statuses("validateConnectionState")
		if len(got) < 2 || got[0] != http.StatusServiceUnavailable || got[len(got)-1] != http.StatusOK {
			t.Errorf("the SDK's requests were answered with %v, want 503 first and 200 last", got)
		}
	})
}
