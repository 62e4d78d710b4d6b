package connector

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// whole is a connector file with every member.
const whole = `{
	"id": "crm/acme", "name": "Acme", "website": "https://acme.test", "source": "https://acme.test/docs", "checked": "All of it.",
	"auth_type": "oauth2", "grant_type": "password", "token_url": "https://{tenant}.acme.test/token",
	"refresh_url": "https://auth.acme.test/refresh", "revocation_url": "https://auth.acme.test/revoke",
	"auth_style": "params", "token_method": "POST", "token_body": "json", "token_params": {"scope": "a b", "tenant": "{tenant}"},
	"token_headers": {"X-Tenant": "{tenant}"}, "answer": {"access_token": "data.token", "expires_in": "data.ttl ms"}, "capture": {"site": "api.0"},
	"expired_statuses": [403], "expired_bodies": [{"status": 200, "text": "token_expired"}], "headers": {"X-Version": "2"},
	"rotation": "window 30m", "keep_alive": "720h", "refresh_token": "optional", "permanent_errors": ["expired"],
	"configuration_errors": ["wrong_client"], "transient_errors": ["~too often"], "early_errors": ["not_due"], "refresh_margin": "30s",
	"refresh_rate": "50/s", "refresh_concurrency": 16,
	"base_url": "https://acme.test", "probe_path": "/{tenant}/me", "allow_hosts": ["*.acme.test"], "allow_private": true,
	"settings": [{"name": "tenant", "label": "Your tenant", "required": true}, {"name": "key", "sensitive": true}, {"name": "site", "origin": true}],
	"inject": [{"kind": "header", "name": "X-Key", "format": "k %s", "setting": "key"}, {"kind": "query", "name": "q"},
		{"kind": "cookie", "name": "c"}, {"kind": "basic", "username": "{tenant}", "password_setting": "key"}]
}`

func TestFileSaysEverything(t *testing.T) {
	t.Parallel()
	d, err := ParseFile([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := Definition{
		ID: ID{"crm", "acme"}, Name: "Acme", Website: "https://acme.test", Source: "https://acme.test/docs", Checked: "All of it.",
		AuthType: OAuth2, GrantType: Password, TokenURL: "https://{tenant}.acme.test/token",
		RefreshURL: "https://auth.acme.test/refresh", RevocationURL: "https://auth.acme.test/revoke",
		AuthStyle: AuthParams, TokenBody: BodyJSON, TokenParams: map[string]string{"scope": "a b", "tenant": "{tenant}"},
		TokenMethod: MethodPost, TokenHeaders: map[string]string{"X-Tenant": "{tenant}"},
		Answer: map[string]string{"access_token": "data.token", "expires_in": "data.ttl ms"}, Capture: map[string]string{"site": "api.0"},
		ExpiredStatuses: []int{403}, ExpiredBodies: []ExpiredBody{{200, "token_expired"}}, Headers: map[string]string{"X-Version": "2"},
		Rotation: Rotation{RotationWindow, 30 * time.Minute}, KeepAlive: 720 * time.Hour, RefreshTokenOptional: true, PermanentErrors: []string{"expired"},
		ConfigurationErrors: []string{"wrong_client"}, TransientErrors: []string{"~too often"}, EarlyErrors: []string{"not_due"}, RefreshMargin: 30 * time.Second,
		RefreshRate: 50, RefreshConcurrency: 16,
		BaseURL: "https://acme.test", ProbePath: "/{tenant}/me", AllowHosts: []string{"*.acme.test"}, AllowPrivate: true,
		Settings: []Setting{{Name: "tenant", Label: "Your tenant", Required: true}, {Name: "key", Sensitive: true}, {Name: "site", Origin: true}},
		Inject: []Placement{
			{Kind: InHeader, Name: "X-Key", Format: "k %s", Setting: "key"},
			{Kind: InQuery, Name: "q"},
			{Kind: InCookie, Name: "c"},
			{Kind: InBasic, Username: "{tenant}", PasswordSetting: "key"},
		},
	}
	want = want.WithDefaults()
	d.templates, want.templates = nil, nil
	got, _ := json.Marshal(d)
	if wanted, _ := json.Marshal(want); string(got) != string(wanted) {
		t.Errorf("got\n%s\nwant\n%s", got, wanted)
	}
}

func TestReadDirTakesTheJSONFilesOfADirectory(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "acme.json"), whole)
	write(filepath.Join(dir, ".acme.json"), "hidden")
	write(filepath.Join(dir, "acme.json~"), "a backup")
	write(filepath.Join(elsewhere, "other"), strings.Replace(whole, "crm/acme", "crm/other", 1))
	if err := os.Symlink(filepath.Join(elsewhere, "other"), filepath.Join(dir, "other.json")); err != nil { // as Kubernetes mounts them
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "more.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	defs, paths, err := ReadDir(dir)
	if err != nil || len(defs) != 2 || paths[ID{"crm", "other"}] != filepath.Join(dir, "other.json") {
		t.Errorf("got %v, %v", paths, err)
	}
	if _, _, err := ReadDir(filepath.Join(dir, "acme.json")); err == nil {
		t.Error("a file is taken for a directory")
	}
}

// FuzzParseFile checks that no file breaks the reader, and that everything works with a
// definition that is accepted.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte(whole))
	files, err := catalogFiles.ReadDir("catalog")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := catalogFiles.ReadFile("catalog/" + file.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"id":"crm/acme","id":"crm/b"}`))
	f.Add([]byte(`]{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseFile(b)
		if err != nil {
			return
		}
		again := d.WithDefaults()
		if err := again.Validate(); err != nil || len(again.Settings) != len(d.Settings) || !slices.Equal(again.Inject, d.Inject) {
			t.Errorf("with its defaults once more it is another: %v", err)
		}
		settings := make(map[string]any)
		for _, s := range d.Settings {
			settings[s.Name] = d.ExampleSetting(s.Name)
		}
		if missing := d.MissingSettings(settings); len(missing) > 0 {
			t.Errorf("%v are missing, though declared ones are all there", missing)
		}
		_ = d.CheckSettings(settings)
		_, _ = d.Injections(settings, "t0ken")
		_, _ = d.RenderTokenParams(settings)
		_, _ = d.RenderRefreshURL(settings)
		_, _ = d.RenderRevocationURL(settings)
		_ = d.Destinations(settings)
		for _, host := range d.Hosts() {
			_ = d.AllowsHost("https", host, settings)
		}
		for _, p := range d.Inject {
			_ = p.String()
		}
		if s, err := renderBaseURL(&d, settings); err == nil && s != "" {
			scheme, rest, _ := strings.Cut(s, "://")
			host, _ := cutAuthority(rest)
			host, _, _ = strings.Cut(host, "?")
			if err := d.AllowsHost(scheme, host, settings); err != nil {
				t.Errorf("base_url becomes %s, which is not allowed: %v", s, err)
			}
		}
	})
}
