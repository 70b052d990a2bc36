// How node loads js/: its files are modules, and the editor's scripts are what a test has put into `editor`.

const EDITOR = /\/scripts\/(app|api)\.js$/;

export async function resolve(specifier, context, next) {
  const name = specifier.match(EDITOR)?.[1];
  if (!name) return next(specifier, context);
  return { url: `data:text/javascript,export const ${name} = globalThis.editorOfTests.${name};`, shortCircuit: true };
}

export async function load(url, context, next) {
  return next(url, url.endsWith(".js") ? { ...context, format: "module" } : context);
}
