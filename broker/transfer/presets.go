package transfer

// The presets that are tables. Names of columns match regardless of case and underscores.

// authJS reads the table of Auth.js, formerly NextAuth. Its expires_at is in seconds since 1970.
var authJS = preset{
	name: "authjs", source: "Auth.js (NextAuth): the table accounts",
	fields: map[string][]string{
		fieldAccessToken: {"access_token"}, fieldRefreshToken: {"refresh_token"}, fieldExpiresAt: {"expires_at"},
	},
	connector: []string{"provider"},
	consumer:  "{userId}",
	skip:      skipValue("type", "credentials", "a password, not a connection"),
}

// betterAuth reads the table of Better Auth, which has passwords too.
var betterAuth = preset{
	name: "better-auth", source: "Better Auth: the table account",
	fields: map[string][]string{
		fieldAccessToken: {"accessToken"}, fieldRefreshToken: {"refreshToken"}, fieldExpiresAt: {"accessTokenExpiresAt"},
		fieldRefreshExpires: {"refreshTokenExpiresAt"},
	},
	connector: []string{"providerId"},
	consumer:  "{userId}",
	skip:      skipValue("providerId", "credential", "a password, not a connection"),
}

// omniauth reads the tables that Rails applications make for OmniAuth. There is no standard one.
var omniauth = preset{
	name: "omniauth", source: "OmniAuth (Rails): tables such as identities and authorizations",
	fields: map[string][]string{
		fieldAccessToken: {"access_token", "oauth_token", "token"}, fieldRefreshToken: {"refresh_token", "oauth_refresh_token"},
		fieldExpiresAt: {"expires_at", "token_expires_at", "oauth_expires_at"},
	},
	connector: []string{"provider"},
	consumer:  "{user_id}",
}

// socialite reads the tables that Laravel applications make for Socialite. There is no standard
// one.
var socialite = preset{
	name: "socialite", source: "Laravel Socialite: tables such as social_accounts",
	fields: map[string][]string{
		fieldAccessToken: {"access_token", "provider_token", "token"}, fieldRefreshToken: {"refresh_token", "provider_refresh_token"},
		fieldExpiresAt: {"expires_at", "token_expires_at", "provider_expires_at", "expires_in"},
	},
	connector: []string{"provider", "provider_name"},
	consumer:  "{user_id}",
}

// pipedream reads accounts of Pipedream Connect with their credentials. Pipedream gives
// those only for an OAuth client of your own.
var pipedream = preset{
	name: "pipedream", source: "Pipedream Connect: accounts with credentials",
	fields: map[string][]string{
		fieldAccessToken:  {"credentials.oauth_access_token"},
		fieldRefreshToken: {"credentials.oauth_refresh_token"}, fieldExpiresAt: {"expires_at"},
		fieldClientID: {"credentials.oauth_client_id"},
	},
	connector: []string{"app.name_slug", "app"},
	consumer:  "{external_id}",
}

// oauth2Token reads tokens as OAuth libraries save them.
var oauth2Token = preset{
	name: "oauth2-token", source: "tokens as saved by Go's oauth2, requests-oauthlib and MCP clients, with the consumer beside them",
	fields: map[string][]string{
		fieldAccessToken: {"access_token"}, fieldRefreshToken: {"refresh_token"},
		fieldExpiresAt: {"expiry", "expires_at", "expiry_date"}, fieldExpiresIn: {"expires_in"}, fieldIssuedAt: {"issued_at"},
		fieldClientID: {"client_id"},
	},
	connector: []string{"provider", "connector"},
	consumer:  "{consumer_id}",
}

// google reads the tokens of Google's clients, whose expiry_date is in milliseconds, and the
// credentials of type authorized_user, which have only a refresh token.
var google = preset{
	name: "google", source: "tokens as saved by Google's clients, with the consumer beside them",
	fields: map[string][]string{
		fieldAccessToken: {"access_token", "token"}, fieldRefreshToken: {"refresh_token"}, fieldExpiresAt: {"expiry_date", "expiry"},
		fieldClientID: {"client_id"},
	},
	connector: []string{"provider", "connector"},
	consumer:  "{consumer_id}",
	skip:      skipValue("type", "service_account", "a service account, not a grant of a customer"),
}

// skipValue returns a function that skips rows with a certain value.
func skipValue(column, value, why string) func(*columns) (string, error) {
	return func(c *columns) (string, error) {
		if text, err := c.text(column); err != nil || text != value {
			return "", err
		}
		return why, nil
	}
}
