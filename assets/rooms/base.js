// What every room needs. `element` is the room's component, `props.value` what Python tells it.
const $ = (selector, from = element) => from.querySelector(selector);
const every = (selector, from = element) => [...from.querySelectorAll(selector)];
const NAMES = ['preset', 'prompt', 'negative_prompt', 'seed', 'nag_scale', 'nag_tau', 'nag_alpha', 'num_inference_steps', 'guidance_scale', 'nag_end'];

function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  if (tag === 'button') node.type = 'button';
  return node;
}

// The page's fields now, by name.
function settings() {
  return Object.fromEntries(NAMES.map((name, i) => [name, (window.nagSettings || [])[i]]));
}

function sign(kind, parent) {
  const node = make('i', 'sign ' + kind, parent);
  node.setAttribute('aria-hidden', 'true');
  return node;
}

// Text and a shape, not a colour alone.
function outcome(kind, text, parent) {
  const node = make('span', 'outcome ' + kind, parent);
  if (kind) sign(kind, node);
  make('span', '', node, text);
  return node;
}

// A finished picture as a column of the bench, beside its own.
function pin(cell, preview, label) {
  dispatchEvent(new CustomEvent('nag-pin', { detail: { cell: { ...cell, preview, state: 'done' }, label } }));
  openRoom('Compare');
}

function openRoom(name) {
  const tab = [...document.querySelectorAll('#rooms [role=tab]')].find(one => one.textContent.trim() === name);
  if (tab) tab.click();
}

function download(file) {
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name || '';
  document.body.append(link);
  link.click();
  link.remove();
}

function visible() { return element.offsetParent !== null; }
