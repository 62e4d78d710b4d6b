// What the scripts beside this one share: the SDK, where it is to send its requests, and
// what an error has to be. The test that runs them puts all they need into SDK_TEST.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

export const given = JSON.parse(process.env.SDK_TEST);

// From where install.sh has put it.
const require = createRequire(`${given.packages}/`);
const { Apideck } = require("@apideck/unify");
export const errors = require("@apideck/unify/models/errors");

// A client is made as the SDK's own documentation makes it; only the server is another.
export function client(options) {
  return new Apideck({
    serverURL: given.serverURL,
    apiKey: given.apiKey,
    appId: given.application,
    consumerId: given.consumer,
    ...options,
  });
}

// refused wants an error of a class of the SDK, with all that an error of the API has.
export async function refused(promise, errorClass, status, typeName, inMessage = "") {
  let err;
  try {
    await promise;
  } catch (e) {
    err = e;
  }
  assert.ok(err, `nothing was refused, want ${status} ${typeName}`);
  assert.ok(err instanceof errorClass, `${err.name}: ${err.message}\nis no ${errorClass.name}`);
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
  assert.ok(body.message.includes(inMessage), `"${body.message}" does not have "${inMessage}" in it`);
  for (const member of ["error", "detail", "ref"]) {
    assert.ok(body[member], `the error has no ${member}`);
  }
  return err;
}

// until asks again and again, and fails if it takes too long.
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

// run runs the steps of a script in their order.
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
