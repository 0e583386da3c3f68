// What the bench and every room need. `element` is the component that these scripts belong to,
// NAMES (from nag/page/cells.py) the page's fields in the order of window.nagSettings.
const $ = (selector, from = element) => from.querySelector(selector);
const every = (selector, from = element) => [...from.querySelectorAll(selector)];

function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  if (tag === 'button') node.type = 'button';
  return node;
}

// The page's fields now, by name; undefined until the page has told them.
function settings() {
  return Object.fromEntries(NAMES.map((name, i) => [name, (window.nagSettings || [])[i]]));
}

// Numbers out of a slider and out of JSON may differ in the last digit.
function same(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return Math.abs(a - b) < 1e-6;
  return JSON.stringify(a) === JSON.stringify(b);
}

function sign(kind, parent) {
  const node = make('i', 'sign ' + kind, parent);
  node.setAttribute('aria-hidden', 'true');
  return node;
}

// The tab of a room: "X-ray" or "xray".
function tabOf(name) {
  const plain = text => text.trim().toLowerCase().replace('-', '');
  const tabs = [...document.querySelectorAll('#rooms [role=tab]')];
  return tabs.find(one => plain(one.textContent) === plain(name));
}

// That room is shown.
function openRoom(name) {
  const tab = tabOf(name);
  if (tab) tab.click();
}

// A file for the visitor: an address and the name that it is saved under. The server would name it
// after its run, so that it is fetched here.
async function offer(url, name) {
  if (url.startsWith('http')) url = URL.createObjectURL(await (await fetch(url)).blob());
  const link = make('a', '', document.body);
  link.href = url;
  link.download = name;
  link.click();
  link.remove();
}
