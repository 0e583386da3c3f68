// The sentence under the pictures, the examples over them, and the card of a model that cannot run
// here.
function drawVerdict() {
  const now = value();
  const told = now.verdict;
  const line = $('.verdict');
  const moved = staleColumns();
  const running = busy();
  const text = $('.verdict p');
  $('.verdict .sign').className = 'sign ' + (told && !running && !moved ? told.sign : '');
  const said = running
    ? progressText()
    : moved
      ? moved < value().cells.filter(cell => cell.state === 'done').length
        ? 'Some of these pictures were made with other settings.'
        : 'These pictures were made with other settings.'
      : told
        ? told.head
        : halted() || now.hint;
  const rest =
    running || moved
      ? ''
      : untouched()
        ? now.look_for
        : told
          ? told.text
          : halted() && 'What is finished stays; Compare draws the rest.';
  const both = said + '\n' + rest;
  if (text.dataset.said !== both) {
    text.dataset.said = both;
    text.replaceChildren();
    if (said) make('b', '', text, said + ' ');
    if (rest) make('span', '', text, rest);
    text.title = both.trim();
  }
  const again = moved || (halted() && !told);
  const moves = running ? [] : again ? [{ label: 'Compare', run: true }] : told ? told.moves : [];
  const more = !running && !again && now.cells.some(cell => cell.state === 'done');
  const node = $('.moves');
  const late = !running && slow();
  const known = JSON.stringify([moves, more, late]);
  if (node.dataset.known !== known) {
    node.dataset.known = known;
    node.replaceChildren();
    if (moves.length && !again) make('span', '', node, 'Next');
    moves.forEach((move, i) => {
      make('button', 'button' + (i ? '' : ' next'), node, move.label).addEventListener(
        'click',
        () => {
          if (move.run) pressCompare();
          else draw(move.set);
        },
      );
    });
    if (more) drawMore(node);
    if (late) drawLate(node, late);
  }
  line.hidden = (!said && !rest) || !$('.card').hidden;
  // `hint` is for those who wait for the end of a run: empty while one goes on
  $('.hint').dataset.over = String(!running);
}

// One picture proves nothing: the same columns on eight seeds, in the room that counts them.
function drawMore(node) {
  const button = make('button', 'button', node, '8 seeds');
  button.title = 'The same words and columns on eight seeds, counted';
  button.addEventListener('click', () => {
    window.nagSeeds = 8;
    openRoom('Seeds');
    dispatchEvent(new Event('nag-seeds'));
  });
}

// Knobs that are not followed any more say so.
function drawLate(node, took) {
  make('span', 'late', node, 'NAG took ' + Math.round(took) + ' s a picture, so Live is off');
  make('button', 'button', node, 'Turn on').addEventListener('click', () => {
    chosen = true;
    redraw();
    redrawNag();
  });
}

// Of a run that was stopped: where.
function halted() {
  const left = value().cells.filter(cell => cell.state === 'stopped');
  if (!left.length || busy()) return '';
  const at = left.find(cell => cell.step);
  return at
    ? 'Stopped at step ' + at.step + ' of ' + at.total + ' of ' + at.name + '.'
    : 'Stopped before ' + left[0].name + ' began.';
}

function staleColumns() {
  if (!fields || busy()) return 0;
  return value().cells.filter(cell => cell.state === 'done' && changed(cell.made, fields).length)
    .length;
}

// The preset's own text stands only under its own sample, or the same settings drawn here.
function untouched() {
  return value().sample && !staleColumns();
}

function progressText() {
  const now = value();
  const cell = now.cells.find(one => ['step', 'decoding', 'loading'].includes(one.state));
  if (!cell) return now.hint || 'Waiting for the engine.';
  return cell.state === 'step'
    ? 'Drawing ' + cell.name + (cell.step ? ', step ' + cell.step + ' of ' + cell.total : '') + '.'
    : cell.state === 'loading'
      ? 'Loading the model.'
      : 'Decoding ' + cell.name + '.';
}

// The bar: what the bench does, or a room, also one that is not looked at (window.nagDrawing).
function drawState() {
  const node = document.querySelector('#state span');
  if (!node || !element.isConnected) return;
  const now = value();
  const [room] = window.nagDrawing || [];
  const running = busy() || room;
  const text = lost
    ? 'Server lost, trying again'
    : running
      ? busy()
        ? progressText().replace(/\.$/, '')
        : 'Drawing in ' + tabOf(room).textContent.trim()
      : now.card
        ? 'Needs a GPU'
        : 'Ready' + (now.device ? ', ' + now.device.split(',')[0].toUpperCase() : '');
  node.className = lost ? 'no' : running ? 'busy' : now.card ? 'no' : 'ready';
  if (node.textContent !== text) node.textContent = text;
}

addEventListener('nag-drawing', drawState);

function drawChips() {
  const node = $('.chips');
  const chips = value().chips || [];
  window.nagExamples = !!value().examples;
  const known = JSON.stringify(chips);
  if (node.dataset.known !== known) {
    node.dataset.known = known;
    node.replaceChildren(
      ...chips.map(chip => {
        const button = make('button', 'chip', null, chip.label);
        button.addEventListener('click', () => draw(chip.set));
        button.title =
          '“' +
          chip.set.prompt +
          '” without “' +
          chip.set.negative_prompt +
          '”, seed ' +
          chip.set.seed;
        return button;
      }),
    );
  }
  every('.chip', node).forEach((button, i) => {
    const set = chips[i].set;
    button.setAttribute(
      'aria-pressed',
      String(
        !!fields && Object.entries(set).every(([name, one]) => same(fields[name], one)),
      ),
    );
  });
}

// A preset that cannot run here says so before Compare; after Compare it says why.
function drawCard() {
  const now = value();
  const card = now.card;
  const node = $('.card');
  const failed = now.cells.length && now.cells.every(cell => cell.state === 'failed') && now.hint;
  const known = JSON.stringify([card, failed && now.hint, now.preset]);
  node.hidden = !(card && (!now.cells.length || failed));
  if (node.hidden || node.dataset.known === known) return;
  node.dataset.known = known;
  node.replaceChildren();
  const outer = node;
  const text = make('div', 'told', outer);
  drawOffers(make('div', 'offers', outer), card.offers || []);
  cardText(text, card, failed);
}

function cardText(node, card, failed) {
  make('span', 'badge no', node, 'Needs a GPU');
  make('h2', '', node, card.title);
  make('p', '', node, failed || card.text);
  if (card.look_for) make('p', '', node, 'There you would see: ' + card.look_for);
  const list = make('dl', 'facts', node);
  for (const [name, text] of card.facts) {
    make('dt', '', list, name);
    make('dd', '', list, text);
  }
  const row = make('div', 'actions', node);
  make('button', 'button main', row, card.instead.label).addEventListener('click', () =>
    trigger('input', { set: { preset: card.instead.preset } }),
  );
  Object.assign(make('a', 'button', row, 'Open the model’s page'), {
    href: card.url,
    target: '_blank',
    rel: 'noopener',
  });
}

function drawOffers(node, offers) {
  make('h3', '', node, 'Runs here now');
  offers.forEach(one => {
    const button = make('button', 'offer', node);
    const image = make('img', '', button);
    const text = make('span', '', button);
    image.alt = '';
    if (one.image) image.src = one.image;
    make('b', '', text, one.title);
    make('small', '', text, one.about);
    make('span', 'badge', button, 'ready');
    button.addEventListener('click', () => trigger('input', { set: { preset: one.preset } }));
  });
}

// Settings for the fields, and a comparison with them.
function draw(set) {
  trigger('select', { set });
}
function pressCompare() {
  const button = document.querySelector('#compare');
  if (button && !button.disabled) button.click();
}
