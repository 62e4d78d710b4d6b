// Shared by the other scripts: the SDK, its client, and checks of errors. The test that runs them
// passes its parameters in SDK_TEST.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

export const given = JSON.parse(process.env.SDK_TEST);

// Load the SDK from the directory of install.sh.
const require = createRequire(`${given.packages}/`);
const { Apideck } = require("@apideck/unify");
export const errors = require("@apideck/unify/models/errors");

// client returns a client, created as in the SDK's documentation, except for the server.
export function client(options) {
  return new Apideck({
    serverURL: given.serverURL,
    apiKey: given.apiKey,
    appId: given.application,
    consumerId: given.consumer,
    ...options,
  });
}

// refused checks that the promise fails with an error of the SDK's class, and with all members of
// an API error. It returns the error.
export async function refused(promise, errorClass, status, typeName, inMessage = "") {
  let err;
  try {
    await promise;
  } catch (e) {
    err = e;
  }
  assert.ok(err, `the request succeeded, want ${status} ${typeName}`);
  assert.ok(err instanceof errorClass, `${err.name}: ${err.message}\nis not a ${errorClass.name}`);
  assert.equal(err.httpMeta.response.status, status, err.message);
  // The SDK has no classes for 403, 405 and 413, and does not read their bodies.
  const body = errorClass === errors.APIError ? JSON.parse(err.httpMeta.body) : {
    status_code: err.statusCode,
    error: err.error,
    type_name: err.typeName,
    message: err.message,
    detail: err.detail,
    ref: err.ref,
  };
  assert.equal(body.status_code, status);
  assert.equal(body.type_name, typeName);
  assert.ok(body.message.includes(inMessage), `"${body.message}" does not contain "${inMessage}"`);
  for (const member of ["error", "detail", "ref"]) {
    assert.ok(body[member], `the error has no ${member}`);
  }
  return err;
}

// until calls ask until its result is truthy, and fails after 30 s.
export async function until(what, ask) {
  for (const deadline = Date.now() + 30_000; Date.now() < deadline;) {
    const got = await ask();
    if (got) {
      return got;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`${what}: not within 30 s`);
}

// run runs the steps of a script in order.
export async function run(steps) {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
    } catch (err) {
      console.error(`${name}:\n${err.stack}`);
      process.exit(1);
    }
    console.log(`ok: ${name}`);
  }
}
