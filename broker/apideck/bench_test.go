package apideck

import "testing"

func BenchmarkParseImport(b *testing.B) {
	body := []byte(`{"credentials":{"access_token":"access-token-0000000000-0000000000000000000000000000000000000042",` +
		`"expires_in":3600,"issued_at":"2026-01-02T03:04:05.000000006Z","refresh_token":"refresh-token-0000000000-000000000000000000000000000000000000042"},` +
		`"metadata":{"account":"account-42"},"settings":{"region":"eu"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseImport(body); err != nil {
			b.Fatal(err)
		}
	}
}
