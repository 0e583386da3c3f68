// What the rooms beside Compare need, after assets/page/shared.js. `props.value` is what Python
// tells a room.

// The room's name; the component's own id is one of Gradio's.
const ROOM = $('.room').className.replace(/^.*\br-/, '');

// Text and a shape, not a colour alone.
function outcome(kind, text, parent) {
  const node = make('span', 'outcome ' + kind, parent);
  if (kind) sign(kind, node);
  make('span', '', node, text);
  return node;
}

// A finished picture as a column of the bench, beside its own.
function pin(cell, preview, label) {
  dispatchEvent(
    new CustomEvent('nag-pin', { detail: { cell: { ...cell, preview, state: 'done' }, label } }),
  );
  openRoom('Compare');
}

// A file that was asked for comes with the room's value, and stays in it.
function deliver(file) {
  if (!file || file.url === element.dataset.file) return;
  element.dataset.file = file.url;
  offer(file.url, file.orig_name || '');
}

function visible() {
  return element.offsetParent !== null;
}

// What a room is saved as; a button of that class asks for it.
const SAVED = ['picture', 'zip', 'html'];

// The page's one large button does what this room does, while the room is looked at: its word is
// that of the room's own button, which is hidden, and a press is passed on to it.
function lend() {
  const main = document.querySelector('#compare');
  if (!main || !$('.go')) return;
  const here = visible();
  if (!here && main.dataset.room !== ROOM) return;
  const running = !$('.halt').hidden;
  const word = running ? 'Stop' : $('.go').textContent;
  main.toggleAttribute('data-idle', here && !running && ($('.go').hidden || $('.go').disabled));
  for (const [name, text] of [
    ['data-room', ROOM],
    ['data-word', word],
    ['aria-label', word],
  ]) {
    if (here) main.setAttribute(name, text);
    else main.removeAttribute(name);
  }
  tellState(here && running);
}

// The bar says what goes on here too; else it would be "Ready" in the middle of a sweep.
function tellState(running) {
  const node = document.querySelector('#state span');
  if (!node || (!running && node.dataset.room !== ROOM)) return;
  if (running && node.dataset.room !== ROOM) node.dataset.before = node.textContent;
  node.className = running ? 'busy' : 'ready';
  node.textContent = running ? 'Drawing' : node.dataset.before;
  if (running) node.dataset.room = ROOM;
  else delete node.dataset.room;
}

new IntersectionObserver(lend).observe(element); // the room is opened, or left
document.addEventListener(
  'click',
  event => {
    if (!element.isConnected || !event.target.closest) return;
    const main = event.target.closest('#compare');
    if (!main || main.dataset.room !== ROOM || !visible()) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    const button = $('.halt').hidden ? $('.go') : $('.halt');
    if (!button.hidden) button.click();
  },
  true,
);
